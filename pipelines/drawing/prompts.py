"""Read captions from text, TSV, CSV, JSON, JSONL or Parquet, and refuse a bad file by naming its bad line."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.base import files, json_text, tables
from infra.base.errors import UserError
from pipelines.raw import pairs
from pipelines.raw.table_files import decoded

Row = Mapping[str, object]  # a row of the file, by column
Placed = Iterator[tuple[str, Row]]  # each row with its place in the file
CAPTIONS = ("prompt", "caption")  # the columns that may hold the caption, in any case
LINE_END = re.compile("\\r\\n|\\r|\\n")  # a caption may hold what str.splitlines takes for more of them
SIDES = ("height", "width")  # the columns that may hold the shape to draw, in any case
WHOLE = re.compile(r"([0-9]{1,9})(?:\.0*)?")
NONE_GIVEN = "(none)"  # the group of a prompt whose field is empty


@dataclass(frozen=True)
class Prompt:
    """A caption and the groups that it belongs to."""

    caption: str
    groups: Mapping[str, str] = field(default_factory=dict)  # column to value, for example Category to Animals
    shape: tuple[int, int] | None = None  # height and width in pixels, of the columns of these names


def read_prompts(path: str) -> list[str]:
    """Read captions from text, one a line, or from the column prompt or caption of a table.

    A table is a .tsv, .csv, .jsonl, .ndjson or .parquet file; a .json file is a list of captions or of objects.

    Raises:
        UserError: if the file is missing, unreadable or empty, or lacks that column or a caption in it.
    """
    return [prompt.caption for prompt in read_grouped(path, ())]


def read_grouped(path: str, columns: Sequence[str], needed: bool = True) -> list[Prompt]:
    """Read captions as read_prompts does, and the columns that group them.

    Args:
        columns: their names, in any case; the result spells them as the file does.
        needed: whether to refuse a file that lacks one of them.

    Raises:
        UserError: as for read_prompts, or naming a column that is missing.
    """
    if not files.exists(path):
        raise UserError(f"{path}: no such file of captions; give the path of one")
    prompts: list[Prompt] = []
    try:
        for place, row in _read(path, [*CAPTIONS, *SIDES, *columns]):
            names = {name.strip().lower(): name for name in row}
            missing = [name for name in columns if name.lower() not in names]
            if needed and missing:
                raise ValueError(f"no column {missing[0]}; it has {', '.join(row)}")
            caption = row[names[_caption_column(list(row))]]
            refusal = pairs.check_caption(caption)
            if refusal:
                raise UserError(f"{path}: {place}: {refusal.reason}")
            grouping = [names[name.lower()] for name in columns if name.lower() in names]
            groups = {name.strip(): _group(row[name]) for name in grouping}
            prompts.append(Prompt(str(caption), groups, _shape([row.get(names.get(side, side)) for side in SIDES])))
    except (ValueError, OSError, csv.Error) as error:  # errors of UTF-8, JSON and Arrow are subclasses
        raise UserError(f"{path}: {error}") from error
    if not prompts:
        raise UserError(f"{path}: no captions in it; give at least one")
    return prompts


def _shape(sides: Sequence[object]) -> tuple[int, int] | None:
    """Return height and width where both are whole numbers above 0; pandas may write 64 as 64.0."""
    matches = [WHOLE.fullmatch(str(side)) for side in sides]
    numbers = [0 if match is None else int(match[1]) for match in matches]
    return (numbers[0], numbers[1]) if all(numbers) else None


def _group(value: object) -> str:
    return NONE_GIVEN if value is None or not str(value).strip() else str(value).strip()


def _read(path: str, wanted: Sequence[str]) -> Placed:
    match path.rsplit(".", 1)[-1].lower():
        case "parquet":
            return _parquet_rows(path, wanted)
        case "csv" | "tsv":
            header, rows = read_table(path)
            _caption_column(header)
            return rows
        case "jsonl" | "ndjson":
            return _json_lines(_text(path))
        case "json":
            return _json_list(_text(path))
        case _:
            lines = enumerate(LINE_END.split(_text(path)), 1)
            return ((f"line {number}", {"prompt": line.strip()}) for number, line in lines if line.strip())


def _caption_column(names: Sequence[str]) -> str:
    lower = [name.strip().lower() for name in names]
    for name in CAPTIONS:
        if name in lower:
            return name
    raise ValueError(f"no column prompt or caption; it has {', '.join(names) or 'none'}")


def _text(path: str) -> str:
    return decoded(files.read_bytes(path))


def read_table(path: str) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """Read a .csv or .tsv table: its header, and each row with its place. Quotes in a TSV are part of the text.

    Raises:
        ValueError, csv.Error: if it is no such table; the rows may raise them too, as they are read lazily.
    """
    tabs: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    options = tabs if path.lower().endswith(".tsv") else {"strict": True}
    rows = csv.reader(io.StringIO(_text(path), newline=""), **options)
    header = next(rows, list[str]())
    return header, _fields(header, rows)


def _fields(header: list[str], rows: Any) -> Iterator[tuple[str, dict[str, str]]]:
    for fields in rows:
        if len(fields) not in (0, len(header)):
            raise ValueError(f"line {rows.line_num}: {len(fields)} fields where the header has {len(header)}")
        if fields:
            yield f"line {rows.line_num}", dict(zip(header, fields, strict=True))


def _json_list(text: str) -> Placed:
    rows = json_text.parse(text)
    if not isinstance(rows, list):
        raise ValueError("holds no list of captions; give a list, or one object a line as .jsonl")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, str | dict):
            raise ValueError(f"entry {number}: neither a caption nor an object")
        yield f"entry {number}", {"prompt": row} if isinstance(row, str) else row


def _json_lines(text: str) -> Placed:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json_text.parse(line)
        except ValueError as error:
            raise ValueError(f"line {number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f"line {number}: not a JSON object")
        yield f"line {number}", row


def _parquet_rows(path: str, wanted: Sequence[str]) -> Placed:
    """Read the wanted columns only; the file may hold images too."""
    names = tables.column_names(path)
    _caption_column(names)
    lower = {name.lower() for name in wanted}
    table = tables.read([path], [name for name in names if name.strip().lower() in lower])
    return ((f"row {number}", row) for number, row in enumerate(table.to_pylist(), 1))
