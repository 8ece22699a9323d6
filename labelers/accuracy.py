"""Preference accuracy of scorers, the paper's Tab. 2: `python labelers/accuracy.py --scorers pickscore clip ...`."""

from __future__ import annotations

from infra.base import cli
from labelers.labels.accuracy import PRESETS, AccuracyConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, AccuracyConfig, PRESETS)


if __name__ == "__main__":
    command()
