"""The flags of the colour layouts, apart from what paints them."""

from __future__ import annotations

from dataclasses import dataclass

from infra.base.places import PathOrName, PathText


@dataclass(frozen=True, kw_only=True)
class LayoutConfig:
    """Flags of the layouts."""

    prompts: PathOrName = "infra/world/prompts/test.txt"
    """Captions, in any file that generate.py reads."""
    limit: int | None = None
    """Number of captions to take, from the first; by default all."""
    output: PathText = "runs/layouts"
    """Folder to write, local or s3://."""
    images_per_prompt: int = 1
    """Layouts per caption."""
    seed: int = 0
    """Seed of the layouts."""
    side: int = 64
    """Width and height in pixels; generate.py resizes layouts to the side of its model."""
    rectangles: int = 4
    """Rectangles per layout."""
