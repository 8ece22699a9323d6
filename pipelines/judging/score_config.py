"""The flags of scoring images, apart from what scores."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Flags of the scorer."""

    images: tuple[str, ...]
    """Folders that generate.py wrote."""
    scorers: tuple[str, ...] = ("oracle", "fidelity")
    """Scorers: names from labelers/scoring/scorers.py, for example pickscore, or module:function."""
    weights: tuple[str, ...] = ()
    """Weights of the scorers: world (of the embedded world), published (from the Hub), or NAME=PATH for one of them."""
    true_images: str | None = None
    """Folder of true images, for the distance KID; without it there is none."""
    feature_model: str = "infra/world/model"
    """Model whose VAE gives the features for KID and diversity, a diffusers folder or Hub name."""
    batch_size: int = 64
    """Images that are scored at once."""
