"""How fast scores are made: the flags that every scoring command has."""

from __future__ import annotations

from dataclasses import dataclass

SPEEDS = {"batch_size": 1, "copies": 0, "gpus_per_copy": 0, "rows_per_file": 1}  # least values of SpeedConfig


@dataclass(frozen=True)
class SpeedConfig:
    """How fast scores are made; never which."""

    batch_size: int = 64
    """Pairs that are scored at once, two images each."""
    copies: int = 0
    """Number of copies of the scorers; 0 takes one for each GPU, or one where there is none."""
    gpus_per_copy: float | None = None
    """GPUs that each copy holds; by default 1 where the cluster has GPUs, else 0."""
    rows_per_file: int = 1024
    """Pairs per file. When a run is killed, each copy loses at most so many."""
