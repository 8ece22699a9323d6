"""Let people judge two models' images, blind: `python pipelines/arena.py --images A B`, a web page on this machine."""

from __future__ import annotations

from infra.base import cli
from pipelines.arena_app.arena import ArenaConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, ArenaConfig)


if __name__ == "__main__":
    command()
