"""Compare two models' edits of the same start images, as the paper does: win, draw or loss.

Example:
    python pipelines/sdedit.py --base runs/edits/base --policy runs/edits/tuned
"""

from __future__ import annotations

from infra.base import cli
from pipelines.experiments.sdedit_config import SdeditConfig


def command() -> None:
    """Run from the command line."""
    cli.run("pipelines.experiments.sdedit:main", SdeditConfig, about=__doc__)


if __name__ == "__main__":
    command()
