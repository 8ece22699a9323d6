"""Make raw pairs in Pick-a-Pic v2's columns from the base model's images: `python infra/world/label_pairs.py`.

The oracle plays the human raters: it prefers slot 0 with probability sigmoid((s0 - s1) / temperature), and calls a tie
where the scores are nearly equal. A handful of bad rows is mixed in, because real data has them.
"""

from __future__ import annotations

import datetime
import io
import uuid
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from infra.base import cli, files
from infra.base.errors import UserError
from labelers.scoring import scorers
from pipelines.drawing.image_sets import DONE, read_images
from pipelines.raw.raw_pairs import labelled_pair, write_pairs

ROWS_PER_FILE = 256


@dataclass(frozen=True)
class LabelConfig:
    """How images become labelled pairs."""

    images: str
    """Folder that generate.py wrote, at least two images per caption."""
    output: str
    """Folder for the raw pairs."""
    temperature: float = 0.01
    """Of the Bradley-Terry labels, in units of the oracle's score (0..1)."""
    tie_margin: float = 0.0045
    """Score difference below which the oracle is indifferent."""
    seed: int = 0


def label(score_0: float, score_1: float, config: LabelConfig, rng: np.random.Generator) -> float:
    """Draw a rater's label_0 from the scores of the two slots."""
    chance = rng.random()
    if abs(score_0 - score_1) < config.tie_margin:
        return 0.5
    return float(chance < 1 / (1 + np.exp(-(score_0 - score_1) / config.temperature)))


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
    model = files.read_json(files.join(folder, DONE))["identity"].get("model", "true renders")
    contents, captions = table["image"].to_pylist(), table["caption"].to_pylist()
    scores = scorers.load("oracle").score([Image.open(io.BytesIO(content)) for content in contents], captions)
    uids = [str(uuid.UUID(int=key % (1 << 128))) for key in table["image_id"].to_pylist()]
    jpegs, rng, rows = (
        [jpeg(content) for content in contents],
        np.random.default_rng(config.seed),
        list[dict[str, Any]](),
    )
    first = 0
    while first < len(captions):
        count = captions.count(captions[first])
        near = [(i, i + 1) for i in range(0, count - 1, 2)]
        far = [(i, i + 2) for i in range(count - 2) if i % 4 < 2]
        for pair in near + far:
            slots = [first + i for i in (pair if rng.random() < 0.5 else pair[::-1])]
            label_0 = label(float(scores[slots[0]]), float(scores[slots[1]]), config, rng)
            shown = [(uids[slot], jpegs[slot]) for slot in slots]
            rows.append(rated_pair(len(rows), captions[first], shown, label_0, model))
        first += count
    if not rows:
        raise UserError(f"--images {config.images}: no caption has two images; draw with --images-per-prompt 2")
    return rows


def rated_pair(number: int, caption: str, shown: list[tuple[str, bytes]], label_0: float, model: str) -> dict[str, Any]:
    """Lay out one pair with what Pick-a-Pic tells of its rater: who, when, and after how many of the same caption."""
    rated = {
        "created_at": datetime.datetime(2026, 1, 1) + datetime.timedelta(minutes=number),
        "user_id": number % 40,
        "num_example_per_prompt": 1,
    }
    return labelled_pair(number, caption, shown, label_0, model) | rated


def bad_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Spoil copies of a few rows, each in one of the ways that real data is spoilt."""
    spoilt: list[dict[str, Any]] = [
        {"jpg_0": rows[0]["jpg_0"][: len(rows[0]["jpg_0"]) // 2]},
        {"jpg_1": b""},
        {"caption": None},
        {"label_0": float("nan")},
        {"label_0": 2.0},
        {"label_0": 1.0, "label_1": 1.0},
    ]
    made = []
    for index, change in enumerate(spoilt):
        source = rows[index % len(rows)]
        shown = [(source[f"image_{slot}_uid"], source[f"jpg_{slot}"]) for slot in (0, 1)]
        fresh = rated_pair(len(rows) + index, source["caption"], shown, 1.0, source["model_0"])
        made.append(fresh | change)
    return made


def main(config: LabelConfig) -> None:
    """Make raw pairs in Pick-a-Pic v2's columns from images, labelled by the embedded world's oracle."""
    output, rng = files.resolve(config.output), np.random.default_rng(config.seed + 1)
    rows = make_rows(config)
    everything = rows + bad_rows(rows)
    shuffled = [everything[index] for index in rng.permutation(len(everything))]
    write_pairs(output, shuffled, asdict(config), ROWS_PER_FILE)
    ties = sum(row["label_0"] == 0.5 for row in rows)
    print(f"{output}: {len(everything)} rows, {ties / len(rows):.1%} ties", flush=True)


if __name__ == "__main__":
    cli.run(main, LabelConfig)
