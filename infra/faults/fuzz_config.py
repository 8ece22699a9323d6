"""The flags of the fuzz run, apart from what runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FuzzConfig:
    """Flags of the fuzz run."""

    seconds: float = 60.0
    """Seconds after which it tries no further row."""
    rows: int = 0
    """Rows after which it stops; with 0 only --seconds decides."""
    seed: int = 0
    """Seed of the changes; the same seed tries the same rows in the same order."""
