"""Try several settings of training and compare the results.

The trials of a YAML file are trained, their images drawn and judged, and a table ranks them. They share the latent
store and the reference's errors. The same command again goes on where it was stopped.

Example:
    dpo-sweep --file sweep.yaml --output runs/sweep
"""

from __future__ import annotations

from infra.base import cli
from pipelines.experiments.sweep_config import SweepConfig


def command() -> None:
    """Run from the command line."""
    cli.run("pipelines.experiments.sweep:main", SweepConfig, verify="pipelines.experiments.sweep:verify", about=__doc__)


if __name__ == "__main__":
    command()
