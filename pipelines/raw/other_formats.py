"""Sources in formats that are not read: tables by their first bytes, and columns of something else than images."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyarrow as pa

from infra.base import files, tables
from infra.base.errors import UserError
from pipelines.raw import columns
from pipelines.raw.image_marks import held_by

LOOKED_AT = 4  # first rows whose images are looked at
TABLES = {
    b"PAR1": "Parquet",
    b"PARE": "encrypted Parquet",
    b"ORC": "ORC",
    b"ARROW1": "Arrow",
    b"\xff\xff\xff\xff": "an Arrow stream",  # as datasets writes, for example into its cache
    b"FEA1": "Feather",
    b"Obj\x01": "Avro",
    b"PK\x03\x04": "a zip archive or spreadsheet",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"SQLite": "SQLite",
}


def how_to_rewrite(path: str) -> str:
    """Say how a file of a known format becomes Parquet; nothing of others."""
    filesystem, inner = files.open_filesystem(path)
    with filesystem.open_input_file(inner) as file:
        begin = file.read(8)
    kind = next((kind for mark, kind in TABLES.items() if begin.startswith(mark)), "")
    if kind == "Parquet":
        return f"it holds Parquet under another name: rename it to {os.path.splitext(path)[0]}{tables.SUFFIX}"
    return f"it holds {kind}; write its table as Parquet, for example with pyarrow, DuckDB or pandas" if kind else ""


def refuse_no_images(paths: Sequence[str]) -> None:
    """Refuse a source whose first images all hold something else, which would only be found pair by pair.

    Raises:
        UserError: naming the file, the column and what it holds.
    """
    for path in paths:
        there = tables.column_names(path)
        first = next(tables.batches(path, [name for name in columns.IMAGES if name in there], LOOKED_AT), None)
        if first is None or not first.num_rows:
            continue
        rows = columns.typed(first, columns.IMAGES, path)
        for name in columns.IMAGES:
            _refuse_column(path, name, rows[name])
        return


def _refuse_column(path: str, name: str, column: pa.ChunkedArray) -> None:
    held = {held_by(content) for content in column.to_pylist() if content is not None}
    if len(held) == 1 and "" not in held:
        raise UserError(
            f"{path}: column {name} holds {held.pop()} in place of an image's bytes; write PNG, JPEG or WebP there"
        )
