"""Run the paper's experiments in miniature, each step a command that a cluster user submits: `make paper`."""

from __future__ import annotations

from infra.base import cli
from infra.local.paper import PaperConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, PaperConfig)


if __name__ == "__main__":
    command()
