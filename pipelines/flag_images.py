"""Flag images by a list of words in their captions, or by a safety checker.

Flags are kept beside the images and counted; no image is removed.

Example:
    python pipelines/flag_images.py --images runs/base runs/tuned --safety-checker published
"""

from __future__ import annotations

from infra.base import cli
from pipelines.judging.flag_config import FlagConfig


def command() -> None:
    """Run from the command line."""
    cli.run("pipelines.judging.flag_images:main", FlagConfig, about=__doc__, runs_jobs=True)


if __name__ == "__main__":
    command()
