"""Tables that hold their images, Parquet files and tars, read row by row: only the row in hand is in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pyarrow as pa

from infra.base import files, tables
from infra.base.errors import UserError
from pipelines.raw import webdataset
from pipelines.raw.columns import is_image, refuse_class_labels
from pipelines.raw.comparisons import Comparison, image_name, image_path, in_hidden_slots
from pipelines.raw.layouts import IMAGE, IMAGES, NUMBERS, OWN, VOTES, WITH_IMAGES, Layout, layout_of, read_row
from pipelines.raw.pairs import hash64
from pipelines.raw.published_layouts import CHOSEN
from pipelines.raw.raw_table import FOOTERS_AT_ONCE
from pipelines.raw.table_places import Table

SHOWN = 40  # characters of a value in a refusal
WithImages = tuple[Comparison, tuple[bytes, bytes]]
PICK_A_PIC = {"caption", "jpg_0", "jpg_1", "label_0"}


class Numbering:
    """Names images by their bytes; pairs of equal images and caption are numbered as they come."""

    def __init__(self) -> None:
        self.used: Counter[int] = Counter()

    def name(self, comparison: Comparison, images: tuple[bytes, bytes]) -> tuple[int, Comparison, dict[str, bytes]]:
        """Return the pair's ranking_id, the pair with its images' names, and the images by these."""
        names = (_name(images[0]), _name(images[1]))
        named = replace(comparison, names=names)
        if comparison.names == CHOSEN:  # the columns tell the winner; other pairs keep the slots that people saw
            named = in_hidden_slots(named)
        compared = hash64(*(part.encode() for part in (named.caption, *named.names)))
        ranking_id = hash64(str(compared).encode(), str(self.used[compared]).encode())
        self.used[compared] += 1
        return ranking_id, named, dict(zip(names, images, strict=True))


def _name(image: bytes) -> str:
    return sha256(image).hexdigest()[:32]


def parquet_layout(table: Table) -> Layout | None:
    """Return the layout of Parquet files that hold their images; None where they name them.

    Raises:
        UserError: if no layout has their columns, they are raw pairs already, or their numbers are none.
    """
    schema = tables.schema_of(table.paths[0])
    names = schema.names
    if PICK_A_PIC.issubset(names):
        raise UserError(f"--table {table.paths[0]}: holds raw pairs already; give it to encode_latents.py as --source")
    layout = layout_of(names)
    if layout is None:
        raise UserError(
            f"--table {table.paths[0]}: has the columns {', '.join(names)}, which are those of no known layout; "
            "docs/public-sets.md lists the known ones"
        )
    schemas = _schemas_with_numbers(table.paths, schema, layout)
    if IMAGE in layout.columns and is_image(schema.field(IMAGE).type):
        raise UserError(
            f"--table {table.paths[0]}: its column {IMAGE} holds the images; write them as files and their paths into "
            f"the column, or write pairs with {', '.join(WITH_IMAGES.columns)}"
        )
    if layout in OWN and all(is_image(schema.field(name).type) for name in IMAGES):
        has_votes = any(not set(VOTES).isdisjoint(one.names) for one in schemas)
        return replace(WITH_IMAGES, columns=layout.columns, has_votes=has_votes)
    return layout if layout.images is not None else None


def _schemas_with_numbers(paths: list[str], first: pa.Schema, layout: Layout) -> list[pa.Schema]:
    """Return all files' columns where the layout reads plain numbers, and refuse ClassLabels among these.

    Of another layout no further footer is read: on the Hub each is a request or more.
    """
    read = {*layout.columns, *(("label_0", *VOTES) if layout in OWN else ())}
    numbers = [name for name in NUMBERS if name in read]
    if not numbers:
        return []
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        schemas = [first, *pool.map(tables.schema_of, paths[1:])]
    for path, schema in zip(paths, schemas, strict=True):
        refuse_class_labels(f"--table {path}", schema, numbers)
    return schemas


def rows_of(paths: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the rows of Parquet files that name their images, each with its place."""
    for path in paths:
        number = 0
        for piece in tables.batches(path, None):
            for row in piece.to_pylist():
                number += 1
                yield f"{path.rpartition('/')[2]}, row {number}", row


def parquet_pairs(table: Table, layout: Layout, images: str) -> Iterator[WithImages]:
    """Read the pairs of Parquet files that hold their images.

    Raises:
        UserError: naming file and row, if it is no pair or has no images.
    """
    columns = layout.images or ()
    for path in table.paths:
        place = f"--table {path}: row"
        # What people wrote of each vote is long, and nothing reads it.
        names = [name for name in tables.column_names(path) if not name.startswith("detailed_results")]
        number = 0
        for piece in tables.batches(path, names):
            for row in piece.to_pylist():
                number += 1
                shown = [_content(row.get(name), name, images, f"{place} {number}") for name in columns]
                for comparison in read_row(layout, row, f"{place} {number}"):
                    if isinstance(comparison, Comparison):
                        yield comparison, (shown[0], shown[1])


def _content(value: object, column: str, images: str, place: str) -> bytes:
    """Return an image's bytes: those in its cell, else those of the file that the cell names."""
    path = value
    if isinstance(value, dict):
        path = value.get("path")
        value = value.get("bytes")
    if isinstance(value, bytes):
        return value
    name = image_name(path, column, place)
    inside = image_path(images, name) if images else None
    if inside is None:
        raise UserError(f"{place}: {column} has no image, and no file {name[:SHOWN]} is in {images or 'a folder'}")
    return files.read_bytes(inside)


def tar_pairs(table: Table) -> Iterator[WithImages]:
    """Read the pairs of WebDataset's tars."""
    for path in table.paths:
        for key, sample in webdataset.samples(path):
            yield webdataset.pair_of(key, sample, path)
