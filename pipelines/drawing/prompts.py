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
from pipelines.raw.table_files import DELIMITERS, EXCEL_HINT, read_text, unpacked_name

Row = Mapping[str, object]  # a row of the file, by column
Placed = Iterator[tuple[str, Row]]  # each row with its place in the file
CAPTIONS = ("prompt", "caption")  # the columns that may hold the caption, in any case
LINE_END = re.compile("\\r\\n|\\r|\\n")  # a caption may hold what str.splitlines takes for more of them
SIDES = ("height", "width")  # the columns that may hold the shape to draw, in any case
QUOTED = re.compile(r'"(?:[^"]|"")*"')  # a field as csv writes it
NEEDS_QUOTES = re.compile(r'""|,|;')  # what it, pandas or Excel quotes a field of a table with tabs for
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

    A table is a .tsv, .csv, .jsonl, .ndjson or .parquet file; a .json file is a list of captions or of objects, or an
    object of objects. A text may be packed, as NAME.csv.gz.

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
        raise UserError(
            f"{path}: no such file of captions; write captions into a text file, one on each line, and give its path"
        )
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
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no UTF-8 text; save it again as UTF-8") from error
    except (ValueError, OSError, csv.Error) as error:  # errors of JSON and Arrow are subclasses
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
    match unpacked_name(path).rsplit(".", 1)[-1]:
        case "parquet":
            return _parquet_rows(path, wanted)
        case "csv" | "tsv":
            header, rows = read_table(path)
            return _with_captions(rows, _caption_column(header))
        case "jsonl" | "ndjson":
            return _json_lines(read_text(path))
        case "json":
            return _json_list(read_text(path))
        case _:
            lines = enumerate(LINE_END.split(read_text(path)), 1)
            return ((f"line {number}", {"prompt": line.strip()}) for number, line in lines if line.strip())


def _caption_column(names: Sequence[str]) -> str:
    lower = [name.strip().lower() for name in names]
    for name in CAPTIONS:
        if lower.count(name) > 1:
            raise ValueError(f"two columns are named {name}, whatever the case; keep one of them")
        if name in lower:
            return name
    raise ValueError(f"no column prompt or caption; it has {', '.join(names) or 'none'}")


def _with_captions(rows: Iterator[tuple[str, dict[str, str]]], column: str) -> Placed:
    """Yield rows, each of which must have a caption: an empty cell is one that somebody left out."""
    for place, row in rows:
        if not next(value for name, value in row.items() if name.strip().lower() == column).strip():
            raise ValueError(f"{place}: {column} is empty; write one, or take the row out")
        yield place, row


def read_table(path: str) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """Read a .csv or .tsv table: its header, and each row with its place.

    A CSV may have other delimiters than commas. Quotes in a TSV are part of the text, unless a program put them there.

    Raises:
        ValueError, csv.Error: if it is no such table; the rows may raise them too, as they are read lazily.
    """
    text = read_text(path)
    hint = EXCEL_HINT.match(text)  # a first line sep=; is Excel's, and no header
    text = text[hint.end() :] if hint else text
    options: dict[str, Any] = {"strict": True}
    if unpacked_name(path).endswith(".tsv"):
        options = {"delimiter": "\t"} if _is_quoted(text) else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    else:
        first = text.partition("\n")[0]
        options["delimiter"] = next((one for one in DELIMITERS if one in first), ",")
    rows = csv.reader(io.StringIO(text, newline=""), **options)
    header = next(rows, list[str]())
    return header, _fields(header, rows, 1 if hint else 0)


def _is_quoted(text: str) -> bool:
    """Say whether a program wrote the quotes of a table with tabs: each field that has some was quoted for a reason."""
    quoted = [field for line in LINE_END.split(text) for field in line.split("\t") if '"' in field]
    return bool(quoted) and all(QUOTED.fullmatch(field) and NEEDS_QUOTES.search(field[1:-1]) for field in quoted)


def _fields(header: list[str], rows: Any, skipped: int) -> Iterator[tuple[str, dict[str, str]]]:
    for fields in rows:
        line = f"line {rows.line_num + skipped}"
        if len(fields) not in (0, len(header)):
            raise ValueError(f"{line}: {len(fields)} fields where the header has {len(header)}")
        if any(fields):  # a line of empty cells is what spreadsheets leave at the end
            yield line, dict(zip(header, fields, strict=True))


def _json_list(text: str) -> Placed:
    rows = json_text.parse(text)
    if isinstance(rows, dict) and rows and all(isinstance(row, dict) for row in rows.values()):
        rows = list(rows.values())  # by an id of each, as MJHQ-30K's meta_data.json
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
    rows = [{name: _text_of(value) for name, value in row.items()} for row in pairs.as_rows(table)]
    return ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _text_of(value: object) -> object:
    """Return text that is stored as bytes, as raw pairs' is (columns.py); other values as they are."""
    return pairs.text_of_bytes(value) if isinstance(value, bytes) else value
