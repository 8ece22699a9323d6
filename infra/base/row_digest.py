"""A digest of a table's rows, whatever their order and however files cut them."""

from __future__ import annotations

import hashlib

import pyarrow as pa

MODULUS = 1 << 128


def rows_digest(table: pa.Table) -> int:
    """Add up a 128-bit hash of each row modulo 2^128, so that equal rows give equal digests in any order."""
    columns = [_texts(table[name].combine_chunks()) for name in sorted(table.column_names)]
    total = 0
    for row in zip(*columns, strict=True):
        total += int.from_bytes(hashlib.blake2b(b"\x1f".join(row), digest_size=16).digest(), "little")
    return total % MODULUS


def as_text(digest: int) -> str:
    """Write a digest as the manifest and the notes of blocks do."""
    return f"{digest:032x}"


def _texts(column: pa.Array) -> list[bytes]:
    """Return each value of a column as bytes."""
    if pa.types.is_fixed_size_list(column.type):
        if column.null_count:
            return [b"null"] * len(column)
        width = column.type.list_size
        rows = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), width)
        return [row.tobytes() for row in rows]
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return [b"null" if value is None else value for value in column.to_pylist()]
    return [repr(value).encode("utf-8", "surrogatepass") for value in column.to_pylist()]
