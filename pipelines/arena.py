"""Let people judge two models' images on a web page, without telling them which is whose.

The page runs on this machine until it is stopped. Votes are kept in a folder and can be exported as pairs.

Example:
    dpo-arena --images runs/base runs/tuned --output runs/arena
"""

from __future__ import annotations

from infra.base import cli
from pipelines.arena_app.arena_config import ArenaConfig


def command() -> None:
    """Run from the command line."""
    cli.run("pipelines.arena_app.arena:main", ArenaConfig, verify="pipelines.arena_app.arena:verify", about=__doc__)


if __name__ == "__main__":
    command()
