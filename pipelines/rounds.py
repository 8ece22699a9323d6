"""Tune a model in rounds, each on pairs of its own images.

A round draws images, ranks them by a scorer, encodes the pairs, trains on them, and compares the new model with the
base on captions that no round trains on. The same command again goes on where it was stopped.

Example:
    dpo-rounds --rounds 3 --output runs/rounds
"""

from __future__ import annotations

from infra.base import cli
from pipelines.experiments.rounds_config import PRESETS, RoundsConfig
from training.settings.presets import LINES


def command() -> None:
    """Run from the command line."""
    cli.run("pipelines.experiments.rounds:main", RoundsConfig, PRESETS, about=__doc__, runs_jobs=True, lines=LINES)


if __name__ == "__main__":
    command()
