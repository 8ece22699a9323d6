"""Make simple colour layouts, from which the generator can start edits.

Example:
    python pipelines/colour_layouts.py --prompts captions.txt --output runs/layouts
"""

from __future__ import annotations

from infra.base import cli
from pipelines.drawing.layout_config import LayoutConfig


def command() -> None:
    """Run from the command line."""
    cli.run("pipelines.drawing.colour_layouts:main", LayoutConfig, about=__doc__)


if __name__ == "__main__":
    command()
