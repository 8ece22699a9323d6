"""Make a label set from several label sets of a latent store.

It reads tables alone, so it takes seconds: no image is scored again. Training takes the new set by its name.

Example:
    dpo-combine --store runs/store --sets pickscore hpsv2 clip --rule vote --output majority
"""

from __future__ import annotations

from infra.base import cli
from labelers.labels.combine_config import CombineConfig


def command() -> None:
    """Run from the command line."""
    cli.run("labelers.labels.combine:main", CombineConfig, about=__doc__)


if __name__ == "__main__":
    command()
