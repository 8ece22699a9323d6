"""Read a table of comparisons or ratings into rows: CSV with any usual delimiter, JSONL, or a JSON list of objects."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

from infra.base import files, json_text
from infra.base.errors import UserError
from pipelines.raw.layouts import COLUMNS, NUMBERS, RANKED_COLUMNS, columns_of

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
EXCEL_HINT = re.compile(r"sep=.\r?\n", re.IGNORECASE)
KNOWN = {*COLUMNS, *RANKED_COLUMNS}


def read_rows(path: str) -> list[tuple[str, Any]]:
    """Read a table's rows, each with its place in the file, for example "line 2".

    Raises:
        UserError: naming the file and, where there is one, the line.
    """
    place = f"--table {path}"
    if not files.is_file(path):
        raise UserError(f"{place}: no such file")
    name = path.lower()
    try:
        text = decoded(files.read_bytes(path))
        if name.endswith((".jsonl", ".ndjson")):
            rows = list(_json_lines(text, place))
        elif name.endswith(".json"):
            rows = _json_list(text, place)
        else:
            rows = list(_delimited_lines(text, place))
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: is no UTF-8 text; save it again as CSV UTF-8") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"{place}: not readable ({error})") from error
    if not rows:
        raise UserError(f"{place}: no comparisons in it")
    return rows


def decoded(content: bytes) -> str:
    """Decode a table: UTF-8 with or without a byte order mark, or UTF-16 with one, as spreadsheets write.

    Raises:
        ValueError: if it is neither.
    """
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if is_wide else "utf-8-sig")
    if "\0" in text:
        raise ValueError("it holds NULs, as UTF-16 without a byte order mark does; save it again as UTF-8")
    return text


def _delimited_lines(text: str, place: str) -> Iterator[tuple[str, Any]]:
    """Read a table with a header, whichever of DELIMITERS stands between its columns; names in any case.

    Raises:
        UserError: if no delimiter gives the columns, saying which header and delimiter were taken.
    """
    skipped = 0
    named = EXCEL_HINT.match(text)  # a first line sep=; is Excel's, and no header
    if named:
        text = text[named.end() :]
        skipped = 1
    headers = {delimiter: _header(text, delimiter) for delimiter in DELIMITERS}
    delimiter = max(headers, key=lambda one: (len(KNOWN & set(headers[one])), len(headers[one])))
    header = headers[delimiter]
    wanted = columns_of(header)
    missing = [name for name in wanted if name not in header]
    if missing:
        raise UserError(
            f"{place}: no column {', '.join(missing)}; its header is {', '.join(header) or 'empty'}, separated by "
            f"{DELIMITERS[delimiter]}; the columns are {', '.join(wanted)}, separated by commas, semicolons or tabs"
        )
    _refuse_doubled(header, place)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    next(reader)
    for fields in reader:
        line = f"line {reader.line_num + skipped}"
        if len(fields) > len(header):
            raise UserError(
                f"{place}: {line}: more values than the header has columns; quote captions that hold a "
                f"{DELIMITERS[delimiter].removesuffix('s')}"
            )
        if any(fields):  # a line of empty cells is what spreadsheets leave at the end
            row: dict[str, str | None] = dict(zip(header, fields, strict=False))
            row = dict.fromkeys(header) | row
            yield line, row if delimiter == "," else _with_points(row)


def _with_points(row: dict[str, str | None]) -> dict[str, str | None]:
    """Write numbers with a point where the table has a comma, as in 0,5."""
    return {name: value.replace(",", ".") if value and name in NUMBERS else value for name, value in row.items()}


def _header(text: str, delimiter: str) -> list[str]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [name.strip().lower() for name in next(reader, list[str]())]


def _refuse_doubled(names: Sequence[str], place: str) -> None:
    for name in KNOWN:
        if names.count(name) > 1:
            raise UserError(f"{place}: two columns are named {name}, whatever the case; keep one of them")


def _json_lines(text: str, place: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json_text.parse(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            yield f"line {number}", _named(row, f"{place}: line {number}")


def _json_list(text: str, place: str) -> list[tuple[str, Any]]:
    rows = json_text.parse(text)
    if not isinstance(rows, list):
        raise UserError(f"{place}: holds no list of objects; give a list, or one object a line as .jsonl")
    return [(f"entry {number}", _named(row, f"{place}: entry {number}")) for number, row in enumerate(rows, 1)]


def _named(row: Any, place: str) -> Any:
    """Return an object with its names in lower case; what is no object is refused where it is read."""
    if not isinstance(row, dict):
        return row
    _refuse_doubled([name.strip().lower() for name in row], place)
    return {name.strip().lower(): value for name, value in row.items()}
