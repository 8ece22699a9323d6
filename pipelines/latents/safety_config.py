"""The content filter's flags, apart from the filter."""

from __future__ import annotations

from dataclasses import dataclass

from infra.base.places import PathOrName

HASHED = ("prompt_blocklist", "safety_checker")  # flags that a filter's identity has a hash for


@dataclass(frozen=True)
class SafetyConfig:
    """Flags of the filter; without them there is none."""

    prompt_blocklist: PathOrName | None = None
    """Flag captions that contain a word or phrase from this text file, one on each line. The value default takes the
    file that comes with the project."""
    safety_checker: PathOrName | None = None
    """Flag images with the safety checker of Stable Diffusion: published takes the one beside SD1.5 on the Hub. A
    folder or Hub name of another checker, or of a pipeline that has one, is possible too."""
    safety_revision: str | None = None
    """Revision of the safety checker on the Hub, for example a commit."""
