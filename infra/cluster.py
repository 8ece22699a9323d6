"""Start or stop a Ray cluster on this machine, for the demo and for trying things out.

It listens on this machine only, and asks for a token.

Example:
    python infra/cluster.py up
"""

from __future__ import annotations

from infra.base import cli
from infra.local.cluster import ClusterConfig


def command() -> None:
    """Run from the command line."""
    cli.run("infra.local.cluster:main", ClusterConfig, about=__doc__)


if __name__ == "__main__":
    command()
