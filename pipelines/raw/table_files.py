"""Read a table of comparisons or ratings into rows: CSV with any usual delimiter, JSONL, or a JSON list of objects.

Each may be packed by gzip, bzip2 or Zstandard, as NAME.csv.gz.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from infra.base import files, json_text
from infra.base.errors import UserError
from pipelines.raw.layouts import COLUMNS, NUMBERS, RANKED_COLUMNS, VOTED_COLUMNS, columns_of

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
EXCEL_HINT = re.compile(r"sep=.\r?\n", re.IGNORECASE)
KNOWN = {*COLUMNS, *VOTED_COLUMNS, *RANKED_COLUMNS}
CAPTIONS = ("caption", "prompt")
PACKED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
ZIP = b"PK\x03\x04"


def read_rows(path: str) -> list[tuple[str, Any]]:
    """Read a table's rows, each with its place in the file, for example "line 2".

    Raises:
        UserError: naming the file and, where there is one, the line.
    """
    place = f"--table {path}"
    if not files.is_file(path):
        raise UserError(f"{place}: no such file; give the path of a table, which counts from where you stand")
    name = unpacked_name(path)
    try:
        text = read_text(path)
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


def unpacked_name(path: str) -> str:
    """Return a table's path in lower case, without the end that says how it is packed."""
    name = path.lower()
    return next((name.removesuffix(end) for end in PACKED if name.endswith(end)), name)


def read_text(path: str) -> str:
    """Read a table's text, also of one that is packed.

    Raises:
        ValueError: if it cannot be unpacked, or is no text.
    """
    content = files.read_bytes(path)
    packed = next((kind for end, kind in PACKED.items() if path.lower().endswith(end)), None)
    if packed is None:
        return decoded(content)
    try:
        return decoded(pa.CompressedInputStream(pa.BufferReader(content), packed).read())
    except OSError as error:
        raise ValueError(f"it cannot be unpacked as {packed}: {error}") from error


def decoded(content: bytes) -> str:
    """Decode a table: UTF-8 with or without a byte order mark, or UTF-16 with one, as spreadsheets write.

    Lines that end in a carriage return alone, as Excel for Mac writes them, end in a line feed then.

    Raises:
        ValueError: if it is neither.
    """
    if content.startswith(ZIP):
        raise ValueError("it is a zip file, as spreadsheets (.xlsx, .ods) are; save the sheet as CSV UTF-8")
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if is_wide else "utf-8-sig")
    if "\0" in text:
        raise ValueError("it holds NULs, as UTF-16 without a byte order mark does; save it again as UTF-8")
    return text if "\n" in text else text.replace("\r", "\n")


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
    captions = [name for name in CAPTIONS if name in wanted]
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
            empty = next((name for name in captions if not (row[name] or "").strip()), None)
            if empty:
                raise UserError(f"{place}: {line}: {empty} is empty; write one, or take the row out")
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
