"""Parquet files on any filesystem, read one way: what stands in a path's name is never read as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from infra.base import files
from infra.base.errors import UserError

SUFFIX = ".parquet"


def open_dataset(paths: Sequence[str]) -> pads.Dataset:
    """Open files of one filesystem as one dataset, in their order, with the columns of the first.

    Raises:
        ValueError: if there are none.
        pa.ArrowInvalid, OSError: if the first cannot be read as Parquet, or one is absent.
    """
    if not paths:
        raise ValueError("no Parquet file to open")
    filesystem, _ = files.open_filesystem(paths[0])
    inner = [files.open_filesystem(path)[1] for path in paths]
    return pads.dataset(inner, filesystem=filesystem, format="parquet", partitioning=None)


def read(paths: Sequence[str], columns: Sequence[str] | None = None, rows: pc.Expression | None = None) -> pa.Table:
    """Read files of one filesystem as one table, in their order.

    Args:
        columns: the columns to read; all by default.
        rows: a condition on the columns that the returned rows fulfil; by default all rows are read.

    Raises:
        ValueError: if there are no files.
        pa.ArrowInvalid, OSError: if one cannot be read as Parquet.
    """
    return open_dataset(paths).to_table(columns=None if columns is None else list(columns), filter=rows)


def read_folder(folder: str, columns: Sequence[str] | None = None, rows: pc.Expression | None = None) -> pa.Table:
    """Read every Parquet file below a folder as one table, in the order of their names; see read.

    Raises:
        UserError: if there is none.
    """
    paths = files.list_files(folder, SUFFIX)
    if not paths:
        raise UserError(f"{folder}: holds no {SUFFIX} file")
    return read(paths, columns, rows)


def parse(content: bytes) -> pa.Table:
    """Read a whole Parquet file that is in memory already, for example because its bytes were hashed."""
    return pq.read_table(pa.BufferReader(content), partitioning=None)


def batches(path: str, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
    """Read columns of one file, at most size rows at a time, so that little of it is in memory."""
    filesystem, inner = files.open_filesystem(path)
    with pq.ParquetFile(inner, filesystem=filesystem) as file:
        yield from file.iter_batches(size, columns=list(columns))


def column_names(path: str) -> list[str]:
    """Name the columns of one file; only its footer is read."""
    filesystem, inner = files.open_filesystem(path)
    return pq.read_schema(inner, filesystem=filesystem).names


def count_rows(path: str) -> int:
    """Count the rows of one file; only its footer is read."""
    filesystem, inner = files.open_filesystem(path)
    return pq.read_metadata(inner, filesystem=filesystem).num_rows
