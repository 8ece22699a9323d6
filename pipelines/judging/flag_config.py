"""The flags of flagging images, apart from what flags."""

from __future__ import annotations

from dataclasses import dataclass, field

from infra.base.places import PathText
from pipelines.latents.safety_config import SafetyConfig


@dataclass(frozen=True)
class FlagConfig:
    """Flags of the command."""

    images: tuple[PathText, ...]
    """Folders that generate.py wrote."""
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    batch_size: int = 64
    """Images that are checked at once."""
