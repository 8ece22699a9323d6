"""Captions to draw, from text, TSV, CSV, JSONL or Parquet; a bad file is refused by the line it is bad at."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra import files
from infra.errors import UserError
from pipelines import pairs

Placed = Iterator[tuple[str, object]]  # where a caption stands in its file, and the caption


def read_prompts(path: str) -> list[str]:
    """Read captions: text, one a line, or a .tsv, .csv, .jsonl or .parquet file with a column prompt or caption.

    Raises:
        UserError: if the file is missing, unreadable, empty, has no such column, or a caption in it is missing.
    """
    if not files.exists(path):
        raise UserError(f"{path}: no such file of captions")
    content, suffix = files.read_bytes(path), path.rsplit(".", 1)[-1].lower()
    captions: list[str] = []
    try:
        for place, caption in _read(content, suffix):
            if refusal := pairs.check_caption(caption):
                raise UserError(f"{path}: {place}: {refusal.reason}")
            captions.append(str(caption))
    except (ValueError, OSError, csv.Error) as error:  # UTF-8, JSON and Arrow's errors are among them
        raise UserError(f"{path}: {error}") from error
    if not captions:
        raise UserError(f"{path}: no captions in it")
    return captions


def _read(content: bytes, suffix: str) -> Placed:
    if suffix == "parquet":
        return _parquet_rows(content)
    text = content.decode("utf-8-sig")  # spreadsheets put a mark of byte order first
    match suffix:
        case "jsonl":
            return _json_lines(text)
        case "csv":
            return _fields(text, strict=True)
        case "tsv":  # a TSV's quotes are part of its text
            return _fields(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        case _:
            lines = enumerate(text.splitlines(), 1)
            return ((f"line {number}", line.strip()) for number, line in lines if line.strip())


def _column(names: Sequence[str]) -> int:
    lower = [name.strip().lower() for name in names]
    for name in ("prompt", "caption"):
        if name in lower:
            return lower.index(name)
    raise ValueError(f"no column prompt or caption; it has {', '.join(names) or 'none'}")


def _fields(text: str, **options: Any) -> Placed:
    rows = csv.reader(io.StringIO(text, newline=""), **options)
    header: list[str] = next(rows, [])
    column = _column(header)
    for fields in rows:
        if len(fields) not in (0, len(header)):
            raise ValueError(f"line {rows.line_num}: {len(fields)} fields where the header has {len(header)}")
        if fields:
            yield f"line {rows.line_num}", fields[column]


def _json_lines(text: str) -> Placed:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number}: not a JSON object")
        yield f"line {number}", list(row.values())[_column(list(row))]


def _parquet_rows(content: bytes) -> Placed:
    table = pq.read_table(pa.BufferReader(content))
    captions = table.column(_column(table.column_names)).to_pylist()
    return ((f"row {number}", caption) for number, caption in enumerate(captions, 1))
