"""Make pairs from a model's own images, ranked by a scorer.

Images of one caption form groups; each group gives the best and the worst image as a pair, or all its pairs. The
encoder reads the result.

Example:
    dpo-rank --images runs/drawn --scorer pickscore --output runs/pairs
"""

from __future__ import annotations

from infra.base import cli
from pipelines.judging.rank_config import RankConfig


def command() -> None:
    """Run from the command line."""
    cli.run("pipelines.judging.rank_pairs:main", RankConfig, about=__doc__)


if __name__ == "__main__":
    command()
