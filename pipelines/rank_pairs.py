"""Make raw pairs from a model's own images: `python pipelines/rank_pairs.py --images runs/drawn --scorer pickscore`."""

from __future__ import annotations

from infra.base import cli
from pipelines.judging.rank_pairs import RankConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, RankConfig)


if __name__ == "__main__":
    command()
