"""Parquet files on any filesystem, read one way: what stands in a path's name is never read as data."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.base import disk_errors, files, pointers
from infra.base.errors import UserError

if TYPE_CHECKING:
    import pyarrow.dataset as pads

SUFFIX = ".parquet"
# Names that other tools give Parquet files, and that no reader of a folder looks for.
OTHER_NAME = re.compile(r".*\.(parquet|parq|pq)(\.(gz|gzip|snappy|zst|zstd|lz4|br|brotli))?", re.IGNORECASE)
BYTES_AT_ONCE = 32 << 20  # of decoded columns
BUFFER = 4 << 20  # bytes of a column that are read ahead
MOST_ROWS = 65_536
SIGNATURE = 28  # bytes behind an open footer that is signed, because columns are encrypted
ENCRYPTED = "is encrypted; write it again without encryption, for example with the tool that has its keys"


class UnreadableError(UserError):
    """A file is no whole Parquet file; the message names it."""


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
    import pyarrow.dataset as pads  # which loads pandas

    return pads.dataset(inner, filesystem=filesystem, format="parquet", partitioning=None)


def read(paths: Sequence[str], columns: Sequence[str] | None = None, rows: pc.Expression | None = None) -> pa.Table:
    """Read files of one filesystem as one table, in their order.

    Args:
        columns: the columns to read; all by default.
        rows: a condition on the columns that the returned rows fulfil; by default all rows are read.

    Raises:
        ValueError: if there are no files.
        UnreadableError: naming the file that cannot be read as Parquet.
        OSError: if one is absent or out of reach.
    """
    chosen = None if columns is None else list(columns)
    with _parsing(paths):
        if len(paths) == 1 and rows is None:
            one = _read_one(paths[0], chosen)
            if one is not None:
                return one
        return open_dataset(paths).to_table(columns=chosen, filter=rows)


def _read_one(path: str, columns: list[str] | None) -> pa.Table | None:
    """Read one file without pyarrow.dataset, whose import loads pandas; None where a column is not there."""
    filesystem, inner = files.open_filesystem(path)
    with pq.ParquetFile(inner, filesystem=filesystem) as file:
        if columns is not None and not set(columns) <= set(file.schema_arrow.names):
            return None  # a dataset says which one
        refuse_encrypted(path, file.metadata)
        table = file.read(columns)
    return table if columns is None else table.select(columns)


@contextlib.contextmanager
def _parsing(paths: Sequence[str]) -> Iterator[None]:
    """Name the file where one of some cannot be read as Parquet inside the block."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        if _is_out_of_reach(error):
            raise
        broken = paths[0] if len(paths) == 1 else next(filter(_is_broken, paths), paths[0])
        raise unreadable(broken, error) from error


def _is_broken(path: str) -> bool:
    try:
        for _ in batches(path, None):
            pass
    except (UnreadableError, OSError):
        return True
    return False


def read_folder(folder: str, columns: Sequence[str] | None = None, rows: pc.Expression | None = None) -> pa.Table:
    """Read every Parquet file below a folder as one table, in the order of their names; see read.

    Raises:
        UserError: if there is none.
    """
    paths = list_tables(folder)
    if not paths:
        raise UserError(f"{folder}: holds no {SUFFIX} file")
    return read(paths, columns, rows)


def parse(path: str, content: bytes) -> pa.Table:
    """Read a whole Parquet file that is in memory already, for example because its bytes were hashed.

    Pages are compared with their checksums, where they have some.

    Args:
        path: where it lies, for messages.

    Raises:
        UnreadableError: if it cannot be read as Parquet.
    """
    with _parsing([path]):
        return pq.read_table(pa.BufferReader(content), partitioning=None, page_checksum_verification=True)


def batches(path: str, columns: Sequence[str] | None, size: int | None = None) -> Iterator[pa.RecordBatch]:
    """Read columns of one file, some rows at a time, so that little of it is in memory however large its row groups.

    Args:
        columns: the columns to read; None: all.
        size: rows at a time; None: as many as BYTES_AT_ONCE hold, by what the footer says.

    Raises:
        UnreadableError: if it cannot be read as Parquet.
        OSError: if it is absent or out of reach.
    """
    filesystem, inner = files.open_filesystem(path)
    # Without pre_buffer and with a buffer, pages are read as they are needed; else a row group is held whole.
    with _parsing([path]), pq.ParquetFile(inner, filesystem=filesystem, pre_buffer=False, buffer_size=BUFFER) as file:
        chosen = None if columns is None else list(columns)
        refuse_encrypted(path, file.metadata)
        yield from file.iter_batches(size or rows_at_once(file.metadata, chosen), columns=chosen)


def refuse_encrypted(path: str, footer: pq.FileMetaData) -> None:
    """Refuse a file whose footer is open and signed, as only files with encrypted columns have it.

    Raises:
        UnreadableError: naming the file.
    """
    filesystem, inner = files.open_filesystem(path)
    with filesystem.open_input_file(inner) as file:
        file.seek(file.size() - 8)
        length = int.from_bytes(file.read(4), "little")
    if length == footer.serialized_size + SIGNATURE:
        raise UnreadableError(f"{path}: {ENCRYPTED}")


def rows_at_once(footer: pq.FileMetaData, columns: Sequence[str] | None) -> int:
    """Return how many rows of some columns BYTES_AT_ONCE hold, by the fullest row group."""
    most = 1.0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        chunks = [group.column(index) for index in range(group.num_columns)]
        chosen = [one for one in chunks if columns is None or one.path_in_schema.split(".")[0] in columns]
        most = max(most, sum(one.total_uncompressed_size for one in chosen) / max(1, group.num_rows))
    return max(1, min(MOST_ROWS, int(BYTES_AT_ONCE / most)))


def pieces(path: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Read columns of one file as tables of at most BYTES_AT_ONCE."""
    for batch in batches(path, columns):
        yield pa.Table.from_batches([batch])


def floats(column: pa.ChunkedArray) -> npt.NDArray[np.floating]:
    """Return a column of floating numbers [n], nulls as NaN; pyarrow's to_numpy would load pandas."""
    whole = column.combine_chunks()
    stored = np.frombuffer(whole.buffers()[1], f"f{whole.type.bit_width // 8}")
    values = stored[whole.offset : whole.offset + len(whole)].copy()
    if whole.null_count:
        values[np.from_dlpack(pc.cast(whole.is_null(), pa.uint8())) == 1] = np.nan
    return values


def list_tables(folder: str) -> list[str]:
    """List the Parquet files below a folder, sorted, without those that other readers pass over, too.

    Names that begin with _ or . below the folder are of unfinished Spark jobs, of macOS, and of this software's work.
    """
    return [path for path in files.list_files(folder, SUFFIX) if not is_passed_over(path, folder)]


def is_passed_over(path: str, folder: str) -> bool:
    """Say whether list_tables of a folder leaves out a path below it, or what lies there."""
    return any(part.startswith(("_", ".")) for part in path.removeprefix(folder).strip("/").split("/"))


def refuse_other_names(folder: str, where: str) -> None:
    """Refuse a folder with Parquet files whose names do not end in SUFFIX: their rows would be left out.

    Raises:
        UserError: beginning with where, which names the folder.
    """
    for path in files.list_files(folder):
        if OTHER_NAME.fullmatch(path) and not path.endswith(SUFFIX) and not is_passed_over(path, folder):
            raise UserError(
                f"{where}: {path} does not end in {SUFFIX}, so its rows would be left out; rename it, or move it away"
            )


def _is_out_of_reach(error: Exception) -> bool:
    return isinstance(error, OSError) and (error.errno is not None or "AWS Error" in str(error))


def unreadable(path: str, error: Exception) -> UserError:
    """Say in one sentence why a file was not read: it is out of reach, or it is no whole Parquet file."""
    if isinstance(error, OSError) and _is_out_of_reach(error):
        return UserError(f"{path}: cannot be read ({disk_errors.reason(error)})")
    if "decrypt" in str(error):
        return UnreadableError(f"{path}: {ENCRYPTED}")
    pointers.refuse(path)
    why = next(iter(str(error).splitlines()), type(error).__name__)
    return UnreadableError(f"{path}: not readable as Parquet ({why}); replace it by a whole file")


def schema_of(path: str) -> pa.Schema:
    """Return the columns of one file, with their types; only its footer is read."""
    filesystem, inner = files.open_filesystem(path)
    with _parsing([path]):
        return pq.read_schema(inner, filesystem=filesystem)


def column_names(path: str) -> list[str]:
    """Name the columns of one file; only its footer is read."""
    return schema_of(path).names


def count_rows(path: str) -> int:
    """Count the rows of one file; only its footer is read."""
    filesystem, inner = files.open_filesystem(path)
    with _parsing([path]):
        return pq.read_metadata(inner, filesystem=filesystem).num_rows
