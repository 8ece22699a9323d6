"""Run the whole path in small on this machine: pairs, store, training, images, scores and report.

Each step is the command that a user of a cluster submits. What is finished is not done again. `make demo` starts it.

Example:
    python infra/demo.py
"""

from __future__ import annotations

from infra.base import cli
from infra.local.demo import DemoConfig


def command() -> None:
    """Run from the command line."""
    cli.run("infra.local.demo:main", DemoConfig, about=__doc__)


if __name__ == "__main__":
    command()
