"""Match each image to draw with its start image, for generate.py --init-images (SDEdit, Meng et al. 2022).

Start images come from one of two sources. One is a folder that generate.py, infra/world/render_images.py or
colour_layouts.py wrote, matched by caption and image_index. The other is a .parquet, .csv or .tsv table with the
columns caption and image. Without a column image_index all images of a caption start from the same one.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from itertools import islice

import pyarrow as pa

from infra.base import files, tables
from infra.base.errors import UserError
from pipelines.drawing.image_sets import DONE, image_files
from pipelines.drawing.prompts import read_table
from pipelines.raw import decode
from pipelines.raw.comparisons import image_path

COLUMN = "start_image"
PART = 64  # images that memory holds at once, and that one file holds
Row = tuple[str, str, int | None, object]  # place in the source, caption, image_index, image


def digest(path: str, wanted: pa.Table) -> str:
    """Check that every wanted image has one start image, and return a hash of the start images.

    The hash is of image_id and encoded bytes, so order and file format do not matter.

    Raises:
        UserError: naming the caption that has no start image, or the row that cannot be decoded or is one too many.
    """
    ids = wanted["image_id"].to_pylist()
    digests: dict[int, str] = {}
    for row, where, content in _matched(path, wanted):
        try:
            decode.open_image(content)
        except decode.BadImage as error:
            raise UserError(f"--init-images {where}: {error}") from error
        assert isinstance(content, bytes)
        digests[ids[row]] = hashlib.sha256(content).hexdigest()
    return hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()


def write(path: str, wanted: pa.Table, folder: str) -> list[str]:
    """Write the wanted images with a column start_image of encoded images, and return the Parquet files."""
    written: list[str] = []
    matched = _matched(path, wanted)
    for part in iter(lambda: list(islice(matched, PART)), []):
        contents = pa.array([content for _, _, content in part], pa.binary())
        table = wanted.take([row for row, _, _ in part]).append_column(COLUMN, contents)
        written.append(files.join(folder, f"part-{len(written):05d}.parquet"))
        files.write_table(written[-1], table)
    return written


def _matched(path: str, wanted: pa.Table) -> Iterator[tuple[int, str, object]]:
    """Yield row of each wanted image, place of its start image and the start image, in the order of the source."""
    keys = list(zip(wanted["caption"].to_pylist(), wanted["image_index"].to_pylist(), strict=True))
    rows_of: dict[str, dict[int, int]] = {}
    for row, (caption, index) in enumerate(keys):
        rows_of.setdefault(caption, {})[index] = row
    missing = dict.fromkeys(range(len(keys)))
    for where, caption, index, content in _read(path):
        own = rows_of.get(caption, {})
        for row in own.values() if index is None else [own[index]] if index in own else []:
            if row not in missing:
                remedy = "number them in a column image_index" if index is None else "leave one out"
                raise UserError(f"--init-images {where}: a second start image for {caption[:80]!r}; {remedy}")
            del missing[row]
            yield row, where, content
    if missing:
        caption, index = keys[next(iter(missing))]
        others = f", nor for {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UserError(f"--init-images {path}: no start image for image {index} of {caption[:80]!r}{others}; add it")


def _read(path: str) -> Iterator[Row]:
    if not files.is_file(path):
        if not files.exists(files.join(path, DONE)):
            raise UserError(f"--init-images {path}: neither a finished folder of images nor a table; give one of these")
        for part in image_files(path):
            yield from _parquet_rows(part)
    elif path.lower().endswith(".parquet"):
        yield from _parquet_rows(path)
    elif path.lower().endswith((".csv", ".tsv")):
        yield from _text_rows(path)
    else:
        raise UserError(f"--init-images {path}: not a known table; a table is .parquet, .csv or .tsv")


def _parquet_rows(path: str) -> Iterator[Row]:
    """Read rows whose image is bytes, or a struct with the field bytes, as datasets writes it."""
    number = 0
    try:
        columns = _columns(path, tables.column_names(path))
        for batch in tables.batches(path, columns, PART):
            for row in batch.to_pylist():
                number += 1
                image = row["image"]
                content = image.get("bytes") if isinstance(image, dict) else image
                yield f"{path}: row {number}", row["caption"], row.get("image_index"), content
    except tables.UnreadableError as error:
        raise UserError(f"--init-images {error}") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"--init-images {path}: not readable as Parquet ({error}); write the file again") from error


def _text_rows(path: str) -> Iterator[Row]:
    """Read rows whose image is the name of a file, in the folder of the table or below it."""
    folder = path.rpartition("/")[0]
    try:
        header, rows = read_table(path)
        _columns(path, header)
        for place, row in rows:
            where = f"{path}: {place}"
            image_file = image_path(folder, row["image"])
            if image_file is None:
                raise UserError(f"--init-images {where}: no image {row['image']} in {folder}; put it there")
            index = _index(where, row["image_index"]) if "image_index" in row else None
            yield where, row["caption"], index, files.read_bytes(image_file)
    except (ValueError, csv.Error) as error:
        raise UserError(f"--init-images {path}: {error}") from error


def _index(where: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"--init-images {where}: image_index is {text[:80]!r}, not a whole number") from None


def _columns(path: str, names: list[str]) -> list[str]:
    if not {"caption", "image"} <= set(names):
        raise UserError(f"--init-images {path}: no columns caption and image; it has {', '.join(names) or 'none'}")
    return [name for name in ("caption", "image", "image_index") if name in names]
