"""Raw pairs as files: Pick-a-Pic v2's columns, one row per pair, and a folder of them with nothing stale in it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from infra.base import files, tables
from infra.base.errors import UserError
from pipelines.raw.pairs import GROUP, PROBABILITY
from pipelines.raw.source import CONFIG, REPLACEMENT, told_apart, whole_rows

ROWS_PER_FILE = 1024
BYTES_PER_FILE = 128 << 20  # of images; what is held in memory at once
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
EXTRA = (pa.field(GROUP, pa.string()), pa.field(PROBABILITY, pa.float64()))  # columns of some raw pairs


def labelled_by(source: str) -> list[str]:
    """Name the scorers that labelled raw pairs, as their folder tells; none where people did, or it tells nothing."""
    config = files.join(whole_rows(told_apart(source)), CONFIG)
    saved = files.read_json(config) if files.is_file(config) else {}
    settings = saved.get("config", saved)  # rank_pairs.py writes what it ranked beside its settings
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

    New rows are written to OUTPUT/_new. CONFIG, the settings that made them, comes last there and says that they are
    whole; then they take the place of the old ones. Whenever this is killed, the encoder finds the old rows or the
    new ones, each whole. Rows with a group_id are of groups (groups.py): they stand together, and each image's bytes
    are written once.

    Raises:
        UserError: if the folder holds other Parquet files, which the encoder would read too.
    """
    _refuse_others(output)
    replacement = files.join(output, REPLACEMENT)
    if whole_rows(output) == replacement:  # a kill came between; what was whole stays so until there is newer
        _take_place(replacement, output)
    files.remove(replacement)
    try:
        count = _write_files(replacement, rows, rows_per_file)
    except UserError:  # a row was refused, and the old rows stand
        files.remove(replacement)
        raise
    files.write_json(files.join(replacement, CONFIG), settings)
    _take_place(replacement, output)
    return count


def _refuse_others(output: str) -> None:
    for path in tables.list_tables(output):
        if not FILE_NAME.fullmatch(path.removeprefix(output).lstrip("/")):
            raise UserError(f"--output {output}: it holds {path}, which is not ours to replace; give another folder")


def _write_files(folder: str, rows: Iterable[dict[str, Any]], rows_per_file: int) -> int:
    """Write rows as files of bounded size, and return the number of rows; a group stays in one file."""
    held: list[dict[str, Any]] = []
    written = count = size = 0

    def flush() -> None:
        nonlocal written, size
        schema = pa.schema([*SCHEMA, *(field for field in EXTRA if field.name in held[0])])
        files.write_table(files.join(folder, f"pairs-{written:04d}.parquet"), pa.Table.from_pylist(held, schema=schema))
        held.clear()
        written += 1
        size = 0

    for row in _each_image_once(rows):
        is_full = len(held) >= rows_per_file or size >= BYTES_PER_FILE
        if is_full and (GROUP not in row or row[GROUP] != held[-1][GROUP]):
            flush()
        held.append(row)
        count += 1
        size += len(row["jpg_0"] or b"") + len(row["jpg_1"] or b"")
    if held:
        flush()
    return count


def _each_image_once(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Leave an image's bytes in the first row of its group that shows it; rows without groups stay as they are."""
    current: object = None
    seen: set[str] = set()
    for row in rows:
        if GROUP not in row:
            yield row
            continue
        if row[GROUP] != current:
            current = row[GROUP]
            seen = set()
        known = {f"jpg_{slot}": None for slot in (0, 1) if row[f"image_{slot}_uid"] in seen}
        seen |= {row[f"image_{slot}_uid"] for slot in (0, 1)}
        yield row | known


def _take_place(replacement: str, output: str) -> None:
    """Put whole new rows in the place of the old: until all are there, the replacement has them and its CONFIG."""
    files.remove(files.join(output, CONFIG))
    new = tables.list_tables(replacement)
    kept = {files.join(output, path.rpartition("/")[2]) for path in new}
    for path in tables.list_tables(output):
        if path not in kept:
            files.remove(path)
    for path in (*new, files.join(replacement, CONFIG)):
        _place(path, files.join(output, path.rpartition("/")[2]))
    files.remove(files.join(replacement, CONFIG))
    files.remove(replacement)


def _place(source: str, target: str) -> None:
    """Give a file a second place: on a disk a second name of the same bytes where it can, else a copy."""
    if not files.is_remote(target):
        files.remove(target)
        with contextlib.suppress(OSError):  # a disk without hard links
            os.link(source, target)
            files.flush(target.rpartition("/")[0])
            return
    files.copy(source, target)
