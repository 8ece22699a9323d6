"""Score images: `python pipelines/score.py --images runs/a runs/b --scorers oracle fidelity`, on Ray Data."""

from __future__ import annotations

from infra.base import cli
from pipelines.judging.score import ScoreConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, ScoreConfig)


if __name__ == "__main__":
    command()
