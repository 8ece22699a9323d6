"""Score the images that the generator drew.

Each scorer gives every image a number: how well it fits its caption, or how much people may like it. Scores are kept
beside the images, and another scorer can be added later.

Example:
    dpo-score --images runs/base runs/tuned --scorers pickscore clip --weights published
"""

from __future__ import annotations

from infra.base import cli
from pipelines.judging.score_config import ScoreConfig


def command() -> None:
    """Run from the command line."""
    cli.run(
        "pipelines.judging.score:main",
        ScoreConfig,
        verify="pipelines.judging.score:verify",
        about=__doc__,
        runs_jobs=True,
    )


if __name__ == "__main__":
    command()
