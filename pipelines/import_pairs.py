"""Bring your own comparisons, or a public preference set, into the form that the encoder reads.

It takes a folder of images and a table with the columns caption, image_0, image_1 and label_0. label_0 is 1 where
image_0 is the better one, 0 where image_1 is, and 0.5 for a tie. The columns votes_0 and votes_1 may say how many
people preferred which image. A table of rankings or ratings has a row for each image instead: caption, image, and rank
or rating. Every two images of a caption are then a pair. Public preference sets are read as they are published, and so
are tars of WebDataset; docs/public-sets.md lists them.

Example:
    dpo-import --table pairs.csv --images images/ --output runs/pairs
    dpo-import --table ranks.csv --images images/ --output runs/ranked
    dpo-import --table HPDv3/ --output runs/hpdv3
"""

from __future__ import annotations

from infra.base import cli
from pipelines.raw.import_config import ImportConfig


def command() -> None:
    """Run from the command line."""
    cli.run("pipelines.raw.import_pairs:main", ImportConfig, about=__doc__)


if __name__ == "__main__":
    command()
