"""How many draws of the base one draw of the policy is worth: `python pipelines/rejection_sampling.py --model ...`."""

from __future__ import annotations

from infra.base import cli
from pipelines.experiments.rejection_sampling import PRESETS, RejectionConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, RejectionConfig, PRESETS)


if __name__ == "__main__":
    command()
