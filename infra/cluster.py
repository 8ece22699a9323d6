"""Start (up) or end (down) a Ray cluster on this machine, protected by a token."""

from __future__ import annotations

from infra.base import cli
from infra.local.cluster import ClusterConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, ClusterConfig)


if __name__ == "__main__":
    command()
