"""Colour layouts to start edits from: `python pipelines/colour_layouts.py --prompts a.txt --output runs/layouts`."""

from __future__ import annotations

from infra.base import cli
from pipelines.drawing.colour_layouts import LayoutConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, LayoutConfig)


if __name__ == "__main__":
    command()
