"""Judge edits as the paper does, by win, draw and loss: `python pipelines/sdedit.py --base runs/a --policy runs/b`."""

from __future__ import annotations

from infra.base import cli
from pipelines.experiments.sdedit import SdeditConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, SdeditConfig)


if __name__ == "__main__":
    command()
