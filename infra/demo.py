"""Run the whole path on this machine, each step a command that a cluster user submits: `make demo`."""

from __future__ import annotations

from infra.base import cli
from infra.local.demo import DemoConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, DemoConfig)


if __name__ == "__main__":
    command()
