"""Raw pairs as files: Pick-a-Pic v2's columns, one row per pair, and a folder of them with nothing stale in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from infra.base import files
from infra.base.errors import UserError
from pipelines.raw.source import told_apart

ROWS_PER_FILE = 1024
BYTES_PER_FILE = 128 << 20  # of images; what is held in memory at once
CONFIG = "_config.json"  # the underscore: whoever reads the folder as Parquet passes over it
RATER = "oracle"  # of the embedded world, where it drew the human labels
FILE_NAME = re.compile(r"pairs-\d+\.parquet")
SCHEMA = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
    ]
)


def labelled_by(source: str) -> list[str]:
    """Name the scorers that labelled raw pairs, as their folder tells; none where people did, or it tells nothing."""
    config = files.join(told_apart(source), CONFIG)
    settings = files.read_json(config) if files.is_file(config) else {}
    if "scorer" in settings:  # rank_pairs.py's
        return [settings["scorer"]]
    return [RATER] if "tie_margin" in settings else []  # infra/world/label_pairs.py's


def labelled_pair(
    ranking_id: int, caption: str, shown: Sequence[tuple[str, bytes]], label_0: float, model: str
) -> dict[str, Any]:
    """Lay out one pair as a row of SCHEMA; what is not known of it (url, rater, time) stays null.

    Args:
        shown: of each slot the image's uid and its encoded bytes, in any of pipelines.images.FORMATS.
        label_0: 1.0 slot 0 preferred, 0.0 slot 1 preferred, 0.5 a tie.
        model: what drew both images.
    """
    best = "tie" if label_0 == 0.5 else shown[0][0] if label_0 == 1.0 else shown[1][0]
    row: dict[str, Any] = {
        "are_different": label_0 != 0.5,
        "best_image_uid": best,
        "caption": caption,
        "has_label": True,
        "ranking_id": ranking_id,
    }
    for slot, (uid, content) in enumerate(shown):
        row |= {f"image_{slot}_uid": uid, f"jpg_{slot}": content, f"model_{slot}": model}
        row |= {f"label_{slot}": label_0 if slot == 0 else 1 - label_0}
    return row


def write_pairs(
    output: str, rows: Iterable[dict[str, Any]], settings: Mapping[str, Any], rows_per_file: int = ROWS_PER_FILE
) -> int:
    """Write raw pairs as OUTPUT/pairs-NNNN.parquet in place of those there, a file at a time; return their number.

    Last comes CONFIG, the settings that made them.

    Raises:
        UserError: if the folder holds other Parquet files, which the encoder would read too.
    """
    before = files.list_files(output, ".parquet")
    for path in before:
        if not FILE_NAME.fullmatch(path.removeprefix(output).lstrip("/")):
            raise UserError(f"--output {output}: it holds {path}, which is not ours to replace; give another folder")
    for path in (files.join(output, CONFIG), *before):
        files.remove(path)
    held: list[dict[str, Any]] = []
    number = count = size = 0

    def flush() -> None:
        nonlocal number, size
        files.write_table(files.join(output, f"pairs-{number:04d}.parquet"), pa.Table.from_pylist(held, schema=SCHEMA))
        held.clear()
        number, size = number + 1, 0

    for row in rows:
        held.append(row)
        count, size = count + 1, size + len(row["jpg_0"]) + len(row["jpg_1"])
        if len(held) == rows_per_file or size >= BYTES_PER_FILE:
            flush()
    if held:
        flush()
    files.write_json(files.join(output, CONFIG), settings)
    return count
