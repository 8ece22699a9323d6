"""Parquet files on any filesystem, read one way."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.base import files


def read_tables(folder: str, **options: Any) -> pa.Table:
    """Read every Parquet file below a folder as one table; options are pyarrow.parquet.read_table's."""
    tables = []
    for path in files.list_files(folder, ".parquet"):
        filesystem, inner = files.open_filesystem(path)
        tables.append(pq.read_table(inner, filesystem=filesystem, partitioning=None, **options))
    return pa.concat_tables(tables)
