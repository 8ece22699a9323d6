"""What each column of raw pairs is, whatever tool wrote the file: one rule per column, on the driver and on workers.

Text, ids and models become strings, labels float64, images binary. An id keeps one spelling, so that a pair keeps its
id: whole numbers in digits however they are stored, UUIDs in lower case with hyphens, text and bytes as they are.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.base import json_text, next_step
from infra.base.errors import UserError
from pipelines.raw import pairs
from pipelines.raw.layouts import layout_of

NAMES = (
    "ranking_id",
    "image_0_uid",
    "image_1_uid",
    "model_0",
    "model_1",
    "group_id",
)  # text, or a number or UUID that names
TAKE_IN = (  # to_parquet alone writes their paths
    "save the dataset by datasets' save_to_disk, which takes the images in, and export that by load_from_disk and "
    "to_parquet"
)
LABELS = ("label_0", "label_1")
NUMBERS = (*LABELS, pairs.PROBABILITY)
IMAGES = ("jpg_0", "jpg_1")
BYTES = "bytes"  # of the struct<bytes, path> that datasets' Image feature is stored as
PATH = "path"
EXPECTED = {
    **dict.fromkeys(("caption",), "text"),
    **dict.fromkeys(NAMES, "text, whole numbers or UUIDs"),
    **dict.fromkeys(LABELS, "the numbers 0, 0.5 and 1"),
    pairs.PROBABILITY: "numbers from 0 to 1",
    **dict.fromkeys(IMAGES, "the bytes of encoded images, or datasets' struct of bytes and path"),
}
TYPES = {
    **dict.fromkeys(("caption", *NAMES), pa.string()),
    **dict.fromkeys(NUMBERS, pa.float64()),
    **dict.fromkeys(IMAGES, pa.binary()),
}


def check_schema(path: str, schema: pa.Schema) -> None:
    """Refuse a file whose columns are not of raw pairs.

    Raises:
        UserError: naming the file, and the column that is missing, doubled or of a type that no rule reads.
    """
    for name in [name for name in TYPES if schema.names.count(name) > 1]:
        raise UserError(f"{path}: two columns are named {name}; keep one of them")
    missing = [name for name in pairs.REQUIRED_COLUMNS if name not in schema.names]
    if missing:
        known = layout_of(schema.names)
        command = next_step.command("pipelines/import_pairs.py", "--table", path, "--output", "raw")
        how = f"make raw pairs with `{command}`" if known else ""
        raise UserError(
            f"{path}: no column {', '.join(missing)}; raw pairs have {', '.join(pairs.REQUIRED_COLUMNS)}, "
            f"and this file has {', '.join(schema.names) or 'none'}{f', as {known.name}: {how}' if known else ''}"
        )
    for name in [name for name in TYPES if name in schema.names]:
        kind = schema.field(name).type
        if not _is_readable(name, kind):
            raise UserError(f"{path}: column {name} is of type {kind}; raw pairs have {EXPECTED[name]} there")
    refuse_class_labels(path, schema, LABELS)


def refuse_class_labels(path: str, schema: pa.Schema, names: Sequence[str]) -> None:
    """Refuse columns that are datasets' ClassLabel, whose stored numbers are places in a list of names.

    With the names ["image_0", "image_1"] a stored 0 means image_0, where a label_0 of 0 means image_1.

    Raises:
        UserError: naming the file and the column.
    """
    try:
        features = json_text.parse((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return
    for name in names:
        about = features.get(name)
        if isinstance(about, dict) and about.get("_type") == "ClassLabel":
            wanted = "float64 with 1, 0 and 0.5" if name in LABELS else "a column of plain numbers"
            raise UserError(
                f"{path}: column {name} is a ClassLabel with the names {about.get('names')}, whose stored numbers are "
                f"places in this list; cast it to {wanted} first"
            )


def _is_readable(name: str, kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    is_bytes = _is_bytes(kind)
    if pa.types.is_null(kind):
        return True
    if name in IMAGES:
        return is_image(kind)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if name in NUMBERS:
        return is_text or is_number or pa.types.is_boolean(kind)
    return is_text or is_bytes or (name in NAMES and (is_number or _is_uuid(kind)))


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def is_image(kind: pa.DataType) -> bool:
    """Say whether a column's values are the bytes of encoded images, or datasets' struct of bytes and path."""
    return _is_bytes(kind) or _is_image_struct(kind)


def _is_uuid(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.UuidType)


def _is_image_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    names = [field.name for field in kind]
    return BYTES in names and _is_bytes(kind.field(names.index(BYTES)).type)


def typed(rows: pa.RecordBatch, columns: Sequence[str], path: str) -> pa.Table:
    """Read rows of a file as raw pairs: each column as its rule says, one that the file lacks as nulls.

    Raises:
        UserError: naming the file and the column with a value that its rule cannot read.
    """
    arrays = {}
    for name in columns:
        given = rows[name] if name in rows.schema.names else pa.nulls(rows.num_rows)
        try:
            arrays[name] = _typed_array(name, given)
        except (pa.ArrowInvalid, ValueError) as error:
            raise UserError(f"{path}: column {name} is not {EXPECTED[name]} ({error})") from error
    return pa.table(arrays, schema=pa.schema([(name, TYPES[name]) for name in columns]))


def _typed_array(name: str, given: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(given.type):
        given = given.dictionary_decode()
    if name in IMAGES:
        return _image_bytes(given)
    if name in NUMBERS:
        return _numbers(given)
    return _names(given)


def _names(given: pa.Array) -> pa.Array:
    kind = given.type
    if _is_uuid(kind):
        texts = [None if value is None else str(uuid.UUID(bytes=value)) for value in given.storage.to_pylist()]
        return pa.array(texts, pa.string())
    if pa.types.is_floating(kind):  # as pandas stores whole numbers where one is missing
        given = pc.if_else(pc.is_nan(given), pa.scalar(None, kind), given).cast(pa.int64())
    elif pa.types.is_decimal(kind):
        given = given.cast(pa.int64())
    # Unchecked: text that is not UTF-8 costs its own row alone (pairs.values), not the source.
    return given.cast(pa.string(), safe=False)


def _numbers(given: pa.Array) -> pa.Array:
    if pa.types.is_string(given.type) or pa.types.is_large_string(given.type) or pa.types.is_string_view(given.type):
        return pa.array([_number(value) for value in given.cast(pa.string()).to_pylist()], pa.float64())
    return given.cast(pa.float64(), safe=False)


def _number(text: str | None) -> float | None:
    """Read a label that is written as text; what is no number becomes NaN, which check_label refuses in its row."""
    if text is None:
        return None
    try:
        return pairs.label_of_text(text)
    except ValueError:
        return float("nan")


def _image_bytes(given: pa.Array) -> pa.Array:
    if not pa.types.is_struct(given.type):
        return given.cast(pa.binary())
    content = pc.struct_field(given, BYTES)
    if PATH in [field.name for field in given.type]:
        alone = pc.and_(pc.is_null(content), pc.is_valid(pc.struct_field(given, PATH)))
        if pc.any(alone).as_py():
            row = int(np.flatnonzero(alone.to_numpy(zero_copy_only=False))[0])
            path = _shown(pc.struct_field(given, PATH)[row].as_py())
            raise ValueError(f"the path {path} stands without the image's bytes; {TAKE_IN}")
    return content.cast(pa.binary())


def _shown(value: Any) -> str:
    return str(value)[-60:]
