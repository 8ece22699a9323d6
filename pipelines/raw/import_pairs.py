"""Make raw pairs from your own comparisons: images and a CSV or JSONL of (caption, image_0, image_1, label_0).

`python pipelines/import_pairs.py --table pairs.csv --images photos --output raw`
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from infra.base import files
from infra.base.errors import UserError
from pipelines.raw import raw_pairs
from pipelines.raw.import_config import ImportConfig
from pipelines.raw.pairs import check_caption, check_label, hash64

COLUMNS = ("caption", "image_0", "image_1", "label_0")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
EXCEL_HINT = re.compile(r"sep=.\r?\n", re.IGNORECASE)


@dataclass(frozen=True)
class Comparison:
    """One checked line of the table."""

    line: int  # of the file, from 1
    caption: str
    names: tuple[str, str]  # of the images in slot 0 and 1, below the folder of images
    label_0: float


def read_comparisons(path: str) -> list[Comparison]:
    """Read and check the table.

    Raises:
        UserError: naming the file and, where there is one, the line.
    """
    if not files.is_file(path):
        raise UserError(f"--table {path}: no such file")
    try:
        text = _decoded(files.read_bytes(path))
        is_json = path.lower().endswith((".jsonl", ".ndjson"))
        lines = _json_lines(text, f"--table {path}") if is_json else _delimited_lines(text, f"--table {path}")
        comparisons = [_comparison(number, row, f"--table {path}: line {number}") for number, row in lines]
    except UnicodeDecodeError as error:
        raise UserError(f"--table {path}: is no UTF-8 text; save it again as CSV UTF-8") from error
    except (ValueError, csv.Error) as error:
        raise UserError(f"--table {path}: not readable ({error})") from error
    if not comparisons:
        raise UserError(f"--table {path}: no comparisons in it")
    return comparisons


def _decoded(content: bytes) -> str:
    """Decode a table: UTF-8 with or without a byte order mark, or UTF-16 with one, as spreadsheets write."""
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_wide else "utf-8-sig")


def _delimited_lines(text: str, place: str) -> Iterator[tuple[int, Any]]:
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
    delimiter = max(headers, key=lambda one: (len(set(COLUMNS) & set(headers[one])), len(headers[one])))
    header = headers[delimiter]
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise UserError(
            f"{place}: no column {', '.join(missing)}; its header is {', '.join(header) or 'empty'}, separated by "
            f"{DELIMITERS[delimiter]}; the columns are {', '.join(COLUMNS)}, separated by commas, semicolons or tabs"
        )
    _refuse_doubled(header, place)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    next(reader)
    for fields in reader:
        number = reader.line_num + skipped
        if len(fields) > len(header):
            raise UserError(
                f"{place}: line {number}: more values than the header has columns; quote captions that hold a "
                f"{DELIMITERS[delimiter].removesuffix('s')}"
            )
        if any(fields):  # a line of empty cells is what spreadsheets leave at the end
            row: dict[str, str | None] = dict(zip(header, fields, strict=False))
            row = dict.fromkeys(header) | row
            if delimiter != "," and row["label_0"] is not None:
                row["label_0"] = row["label_0"].replace(",", ".")  # 0,5 where the comma is the decimal sign
            yield number, row


def _header(text: str, delimiter: str) -> list[str]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    return [name.strip().lower() for name in next(reader, list[str]())]


def _refuse_doubled(names: Sequence[str], place: str) -> None:
    for name in COLUMNS:
        if names.count(name) > 1:
            raise UserError(f"{place}: two columns are named {name}, whatever the case; keep one of them")


def _json_lines(text: str, place: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if isinstance(row, dict):
                _refuse_doubled([name.strip().lower() for name in row], f"{place}: line {number}")
                row = {name.strip().lower(): value for name, value in row.items()}
            yield number, row


def _comparison(number: int, row: Any, place: str) -> Comparison:
    if not isinstance(row, dict):
        raise UserError(f"{place}: not an object with {', '.join(COLUMNS)}")
    missing = [name for name in COLUMNS if name not in row]
    if missing:
        raise UserError(f"{place}: no {', '.join(missing)}")
    caption = row["caption"]
    label = row["label_0"]
    if isinstance(label, str):  # all that a CSV knows
        try:
            label = float(label)
        except ValueError:
            raise UserError(f"{place}: label_0 is {label!r}, not 0, 0.5 or 1") from None
    refusal = check_caption(caption) or check_label(label, None, strict=False)
    if refusal:
        raise UserError(f"{place}: {refusal.reason}")
    for name in COLUMNS[:3]:
        if not isinstance(row[name], str) or not row[name] or not _is_unicode(row[name]):
            raise UserError(f"{place}: {name} is {'empty' if row[name] in ('', None) else 'not text'}")
    return Comparison(number, caption, (row["image_0"], row["image_1"]), float(label))


def _is_unicode(text: str) -> bool:
    """Say whether UTF-8 can hold a text; JSON's escapes can make one that it cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def image_path(images: str, name: str) -> str | None:
    """Return the path of an image, or None where the folder has none of that name or the name leads out of it."""
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        return None
    path = files.join(images, name)
    return path if files.is_file(path) else None


def check_images(comparisons: list[Comparison], images: str, table: str) -> None:
    """Look for every image before anything is written.

    Raises:
        UserError: naming the first line whose image is not there.
    """
    known: set[str] = set()
    for comparison in comparisons:
        for name in comparison.names:
            if name not in known and image_path(images, name) is None:
                raise UserError(f"--table {table}: line {comparison.line}: no image {name} in {images}")
            known.add(name)


def ranking_ids(comparisons: list[Comparison]) -> list[int]:
    """Give each comparison an id, two raters' comparisons of the same images included.

    Equal (caption, image_0, image_1) are numbered by label, so the ids do not depend on the order of the table.
    """
    numbered: dict[int, int] = {}
    used: Counter[tuple[str, str, str]] = Counter()
    for index in sorted(range(len(comparisons)), key=lambda index: comparisons[index].label_0):
        one = comparisons[index]
        compared = (one.caption, *one.names)
        numbered[index] = hash64(*(part.encode() for part in compared), str(used[compared]).encode())
        used[compared] += 1
    return [numbered[index] for index in range(len(comparisons))]


def imported_pairs(comparisons: list[Comparison], images: str) -> Iterator[dict[str, Any]]:
    """Turn comparisons into raw pairs one by one; the images' bytes go in as they are."""
    for comparison, ranking_id in zip(comparisons, ranking_ids(comparisons), strict=True):
        shown = [(name, files.read_bytes(files.join(images, name))) for name in comparison.names]
        yield raw_pairs.labelled_pair(ranking_id, comparison.caption, shown, comparison.label_0, "imported")


def main(config: ImportConfig) -> None:
    """Make raw pairs in Pick-a-Pic's columns from a folder of images and a table of comparisons."""
    output = files.resolve(config.output)
    images = files.resolve(config.images)
    comparisons = read_comparisons(files.resolve(config.table))
    check_images(comparisons, images, config.table)
    count = raw_pairs.write_pairs(output, imported_pairs(comparisons, images), asdict(config))
    print(f"{output}: {count} raw pairs; next: python pipelines/encode_latents.py --source {output}", flush=True)
