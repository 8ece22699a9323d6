"""Measure how often scorers prefer the image that people preferred.

This is Tab. 2 of the paper, for any scorers and any pairs with human labels, with intervals.

Example:
    dpo-accuracy --source pairs/ --scorers pickscore clip --preset published
"""

from __future__ import annotations

from infra.base import cli
from labelers.labels.accuracy_config import LINES, PRESETS, AccuracyConfig


def command() -> None:
    """Run from the command line."""
    cli.run("labelers.labels.accuracy:main", AccuracyConfig, PRESETS, about=__doc__, runs_jobs=True, lines=LINES)


if __name__ == "__main__":
    command()
