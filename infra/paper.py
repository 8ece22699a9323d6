"""Repeat the paper's experiments in small on this machine.

What is finished is not done again. `make paper` starts it.

Example:
    python infra/paper.py
"""

from __future__ import annotations

from infra.base import cli
from infra.local.paper import PaperConfig


def command() -> None:
    """Run from the command line."""
    cli.run("infra.local.paper:main", PaperConfig, about=__doc__)


if __name__ == "__main__":
    command()
