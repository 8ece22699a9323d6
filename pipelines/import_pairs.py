"""Make raw pairs from your own comparisons: images and a CSV or JSONL of (caption, image_0, image_1, label_0)."""

from __future__ import annotations

from infra.base import cli
from pipelines.raw.import_pairs import ImportConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, ImportConfig)


if __name__ == "__main__":
    command()
