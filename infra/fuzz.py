"""Feed spoilt rows to the encoder's first step, and stop at the first that it handles wrongly.

Example:
    nice python infra/fuzz.py --seconds 60 --seed 0
"""

from __future__ import annotations

from infra.base import cli
from infra.faults.fuzz_config import FuzzConfig


def command() -> None:
    """Run from the command line."""
    cli.run("infra.faults.fuzz:main", FuzzConfig, about=__doc__)


if __name__ == "__main__":
    command()
