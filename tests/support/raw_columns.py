"""Raw pairs as Parquet files in some columns, and what the driver and the workers read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.raw import pairs, raw_table
from pipelines.raw.raw_pairs import SCHEMA
from support.material import rendered_pairs


def pairs_table(count: int = 6) -> pa.Table:
    """Make raw pairs in the columns that are read."""
    table = pa.Table.from_pylist(rendered_pairs(count), schema=SCHEMA)
    read = (*pairs.REQUIRED_COLUMNS, *pairs.OPTIONAL_COLUMNS)
    return table.select([name for name in read if name in table.column_names])


def put(table: pa.Table, name: str, column: Any) -> pa.Table:
    """Replace a column."""
    return table.set_column(table.column_names.index(name), name, column)


def write(folder: Path, *parts: pa.Table) -> list[str]:
    """Write tables as a.parquet, b.parquet and so on, and name the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(folder / f"{letter}.parquet") for letter, _ in zip("abc", parts, strict=False)]
    for path, part in zip(paths, parts, strict=True):
        pq.write_table(part, path)
    return paths


def read(paths: list[str]) -> pa.Table:
    """Read a source as a worker does, whatever the file."""
    raw = raw_table.open_source(paths)
    return pa.concat_tables([piece for path in paths for piece in raw_table.read_pieces(path, raw.names)])


def ids(paths: list[str]) -> list[int]:
    """Compute the ids on the driver and on workers, and compare the two."""
    on_driver = raw_table.all_pair_ids(raw_table.open_source(paths)).tolist()
    assert pairs.pair_ids(read(paths)).tolist() == on_driver
    return on_driver
