"""Kill an encoding at random moments, or touch files of running jobs, and check that nothing is lost or doubled.

Example:
    nice python infra/chaos.py --rounds 20 --seed 0
    nice python infra/chaos.py --rounds 100 --victims hands
"""

from __future__ import annotations

from infra.base import cli
from infra.faults.chaos_config import ChaosConfig


def command() -> None:
    """Run from the command line."""
    cli.run("infra.faults.chaos:main", ChaosConfig, about=__doc__)


if __name__ == "__main__":
    command()
