"""Flag images: `python pipelines/flag_images.py --images runs/a runs/b --safety-checker published`, on Ray Data."""

from __future__ import annotations

from infra.base import cli
from pipelines.judging.flag_images import FlagConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, FlagConfig)


if __name__ == "__main__":
    command()
