"""Iterative DPO: pairs from the model itself, in rounds: `ray job submit -- python pipelines/rounds.py --rounds 3`."""

from __future__ import annotations

from infra.base import cli
from pipelines.experiments.rounds import main
from pipelines.experiments.rounds_config import PRESETS, RoundsConfig


def command() -> None:
    """Run from the command line."""
    cli.run(main, RoundsConfig, PRESETS)


if __name__ == "__main__":
    command()
