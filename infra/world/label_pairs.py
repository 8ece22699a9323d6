"""Make raw pairs in Pick-a-Pic v2's columns from the base model's images: `python infra/world/label_pairs.py`.

The oracle plays the human raters. It prefers slot 0 with probability sigmoid((s0 - s1) / temperature), and calls a tie
where the scores are nearly equal. Six bad rows are mixed in, because real data has such rows.
"""

from __future__ import annotations

import io
import uuid
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from infra.base import cli, files
from infra.base.errors import UserError
from infra.base.places import PathText
from infra.world.rater import Rater, bad_rows, rated_pair
from labelers.scoring import scorers
from pipelines.drawing.image_sets import read_images, read_manifest
from pipelines.raw.raw_pairs import write_pairs

ROWS_PER_FILE = 256


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """Flags of the labelling."""

    images: PathText
    """Folder that generate.py wrote, with at least two images per caption."""
    output: PathText
    """Folder for the raw pairs."""
    temperature: float = Rater.temperature
    """Temperature of the Bradley-Terry labels, in units of the oracle's score (0..1)."""
    tie_margin: float = Rater.tie_margin
    """Score difference (0..1) below which the label is a tie."""
    seed: int = 0
    """Seed of the labels, the slots and the rows' order."""


def jpeg(png: bytes) -> bytes:
    """Encode an image as JPEG, full colour resolution."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def make_rows(config: LabelConfig) -> list[dict[str, Any]]:
    """Pair each caption's images, in random slots, and label the pairs.

    Neighbours are compared, 0 with 1 and 2 with 3, and of four images also 0 with 2 and 1 with 3.

    Raises:
        UserError: if no caption has two images.
    """
    folder = files.resolve(config.images)
    table = read_images(folder).sort_by([("caption", "ascending"), ("image_index", "ascending")])
    model = read_manifest(folder)["identity"].get("model", "true renders")
    contents = table["image"].to_pylist()
    captions = table["caption"].to_pylist()
    scores = scorers.load("oracle").score([Image.open(io.BytesIO(content)) for content in contents], captions)
    uids = [str(uuid.UUID(int=key % (1 << 128))) for key in table["image_id"].to_pylist()]
    jpegs = [jpeg(content) for content in contents]
    rater = Rater(config.temperature, config.tie_margin)
    rng = np.random.default_rng(config.seed)
    rows: list[dict[str, Any]] = []
    first = 0
    while first < len(captions):
        count = captions.count(captions[first])
        near = [(i, i + 1) for i in range(0, count - 1, 2)]
        far = [(i, i + 2) for i in range(count - 2) if i % 4 < 2]
        for pair in near + far:
            slots = [first + i for i in (pair if rng.random() < 0.5 else pair[::-1])]
            label_0 = rater.label(float(scores[slots[0]]), float(scores[slots[1]]), rng)
            shown = [(uids[slot], jpegs[slot]) for slot in slots]
            rows.append(rated_pair(len(rows), captions[first], shown, label_0, model))
        first += count
    if not rows:
        raise UserError(
            f"--images {config.images}: no caption has two images, so there is nothing to compare; "
            "draw them with --images-per-prompt 2"
        )
    return rows


def main(config: LabelConfig) -> None:
    """Make raw pairs in Pick-a-Pic v2's columns from images, labelled by the embedded world's oracle."""
    output = files.resolve(config.output)
    rng = np.random.default_rng(config.seed + 1)
    rows = make_rows(config)
    everything = rows + bad_rows(rows)
    shuffled = [everything[index] for index in rng.permutation(len(everything))]
    write_pairs(output, shuffled, asdict(config), ROWS_PER_FILE)
    ties = sum(row["label_0"] == 0.5 for row in rows)
    print(f"{output}: {len(everything)} rows, {ties / len(rows):.1%} ties", flush=True)


if __name__ == "__main__":
    cli.run(main, LabelConfig)
