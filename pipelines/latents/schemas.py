"""Columns of a latent store's Parquet files, how they are written, and values as Arrow's lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Values = npt.NDArray[np.float16 | np.float32]  # latents and embeddings, in the store's dtype
SIDES = ("height", "width")  # columns of a pair's bucket, in pixels
TEXT_COLUMNS = ("image_0_uid", "image_1_uid", "model_0", "model_1", "stage", "reason")
# How pairs/ and prompts/ are written: the values of a row group's column then lie in one page, as they are in memory,
# at the end of the column's bytes. So a row's place in the file is known, and training reads it there (addresses.py).
TEXTS = ("caption", *TEXT_COLUMNS, "image_uid", "model")
WRITTEN_AS: Mapping[str, Any] = {
    "compression": dict.fromkeys(TEXTS, "snappy"),
    "use_dictionary": list(TEXTS),
    "data_page_size": 1 << 30,
    "write_page_checksum": True,
}
PAGE_BYTES = 1 << 29  # of one column in a file, at most
PAGE_ROWS = 16_384  # in a file, at most: the writer itself begins a new page after 20,000


MIRRORED = "_flipped"  # end of the names of the columns of mirrored images


def latent_columns(flip: bool) -> tuple[str, ...]:
    """Name the latent columns of a store."""
    plain = ("latents_0", "latents_1")
    return plain + (tuple(f"{name}{MIRRORED}" for name in plain) if flip else ())


def pairs_schema(latent_size: int, flip: bool, dtype: str = "float16", bucketed: bool = False) -> pa.Schema:
    """Return the schema of pairs/, whatever the status.

    Args:
        latent_size: number of values of a latent column in each row. With buckets it is the largest bucket's: a smaller
            latent's values come first, and zeros follow.
        bucketed: whether pairs have shapes of their own, which height and width tell in pixels.
    """
    values = pa.from_numpy_dtype(np.dtype(dtype))
    latents = [(name, pa.list_(values, latent_size)) for name in latent_columns(flip)]
    texts = [(name, pa.string()) for name in TEXT_COLUMNS]
    head = [("pair_id", pa.int64()), ("prompt_id", pa.int64())]
    if bucketed:
        head += [(name, pa.int32()) for name in SIDES]
    return pa.schema(
        [*head, *latents, ("label_0", pa.float32()), *texts, ("contradicts", pa.bool_()), ("status", pa.string())]
    )


def image_columns(flip: bool) -> tuple[str, ...]:
    """Name the latent columns of the images of a store of groups."""
    return ("latents",) + ((f"latents{MIRRORED}",) if flip else ())


def images_schema(latent_size: int, flip: bool, dtype: str = "float16") -> pa.Schema:
    """Return the schema of images/ of a store of groups, whatever the status."""
    values = pa.from_numpy_dtype(np.dtype(dtype))
    ids = [(name, pa.int64()) for name in ("image_id", "group_id", "prompt_id")]
    latents = [(name, pa.list_(values, latent_size)) for name in image_columns(flip)]
    texts = [(name, pa.string()) for name in ("image_uid", "model", "stage", "reason", "status")]
    return pa.schema([*ids, *latents, *texts])


def grouped_pairs_schema() -> pa.Schema:
    """Return the schema of pairs/ of a store of groups: that of pairs_schema, with two images in place of latents."""
    ids = [(name, pa.int64()) for name in ("pair_id", "prompt_id", "group_id", "image_0_id", "image_1_id")]
    texts = [(name, pa.string()) for name in TEXT_COLUMNS]
    return pa.schema([*ids, ("label_0", pa.float32()), *texts, ("contradicts", pa.bool_()), ("status", pa.string())])


def bucket_places(sides: npt.NDArray[np.int32], buckets: Sequence[tuple[int, int]]) -> npt.NDArray[np.uint8]:
    """Return the place of each pair's bucket among a store's.

    Args:
        sides: [n, 2] height and width of each pair's bucket, in pixels.
    """
    same = (sides[:, None, :] == np.array(buckets)[None, :, :]).all(-1)
    assert same.any(1).all()
    return same.argmax(1).astype(np.uint8)


def value_lists(values: Values, missing: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Wrap [rows, size] as an Arrow fixed-size list column; rows where missing is true become null."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    mask = None if missing is None else pa.array(missing)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)


def value_rows(column: pa.ChunkedArray | pa.Array) -> Values:
    """Read a fixed-size list column without nulls as [rows, size]."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
