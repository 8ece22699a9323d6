"""Train, draw and judge trials that share stores and reference errors: `python pipelines/sweep.py --file FILE`."""

from __future__ import annotations

from infra.base import cli
from pipelines.experiments.sweep import SweepConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, SweepConfig)


if __name__ == "__main__":
    command()
