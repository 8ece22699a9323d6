"""The flags of ranking, apart from what ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from infra.base.places import PathText

Pairs = Literal["best-worst", "all"]


@dataclass(frozen=True, kw_only=True)
class RankConfig:
    """Flags of the ranking."""

    images: PathText
    """Folder that generate.py wrote and score.py scored, with at least two images per caption."""
    output: PathText = "runs/ranked"
    """Folder for the raw pairs, local or s3://."""
    scorer: str = "oracle"
    """Scorer whose scores rank the images."""
    pairs: Pairs = "best-worst"
    """Pairs of a group: its best and its worst image, or all."""
    group_size: int = 4
    """Images per group; the last group of a caption may be smaller, and a single image left over stands in no pair."""
