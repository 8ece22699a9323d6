"""Parquet read one way: order, columns, rows, footers; no data out of a path's name; unreadable files are refused."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest

from infra.base import tables
from infra.base.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write two files below folders named like partitions: rows 0 to 2 and 3 to 4."""
    for name, numbers in (("colour=1/a.parquet", [0, 1, 2]), ("colour=2/b.parquet", [3, 4])):
        path = tmp_path / name
        path.parent.mkdir()
        pq.write_table(pa.table({"number": numbers, "square": [n * n for n in numbers]}), path)
    (tmp_path / "notes.txt").write_text("no table")
    return tmp_path


def test_a_folder_is_one_table_in_the_order_of_its_files_without_columns_from_their_paths(folder: Path) -> None:
    table = tables.read_folder(str(folder))
    assert table.to_pydict() == {"number": [0, 1, 2, 3, 4], "square": [0, 1, 4, 9, 16]}


def test_files_are_read_in_the_order_given(folder: Path) -> None:
    paths = [str(folder / "colour=2" / "b.parquet"), str(folder / "colour=1" / "a.parquet")]
    assert tables.read(paths, ["number"]).to_pydict() == {"number": [3, 4, 0, 1, 2]}


def test_rows_are_chosen_by_a_column_that_is_not_returned(folder: Path) -> None:
    table = tables.read_folder(str(folder), ["number"], pc.field("square") > 3)
    assert table.to_pydict() == {"number": [2, 3, 4]}


def test_batches_hold_at_most_the_asked_rows(folder: Path) -> None:
    parts = list(tables.batches(str(folder / "colour=1" / "a.parquet"), ["square"], 2))
    assert [part.to_pydict() for part in parts] == [{"square": [0, 1]}, {"square": [4]}]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_floats_are_numbers_with_nan_where_nulls_are(kind: pa.DataType) -> None:
    column = pa.chunked_array([pa.array([9.0, 1.0, None], kind).slice(1), pa.array([0.5], kind)])
    assert str(tables.floats(column).tolist()) == "[1.0, nan, 0.5]"
    assert len(tables.floats(pa.chunked_array([], kind))) == 0


def test_one_file_is_read_as_a_dataset_would_in_the_order_of_the_columns_asked_for(folder: Path) -> None:
    path = str(folder / "colour=1" / "a.parquet")
    assert tables.read([path], ["square", "number"]).equals(tables.open_dataset([path]).to_table(["square", "number"]))
    with pytest.raises(UserError, match="none"):
        tables.read([path], ["none"])


def test_footers_name_columns_and_count_rows(folder: Path) -> None:
    path = str(folder / "colour=1" / "a.parquet")
    assert tables.column_names(path) == ["number", "square"]
    assert tables.count_rows(path) == 3


def test_bytes_in_memory_are_read_as_the_file_is(folder: Path) -> None:
    path = folder / "colour=2" / "b.parquet"
    assert tables.parse(str(path), path.read_bytes()) == tables.read([str(path)])


class Keys(encryption.KmsClient):
    """Wraps a key by writing it in base64."""

    def __init__(self, _: encryption.KmsConnectionConfig) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, _: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, wrapped: bytes, _: str) -> bytes:
        return base64.b64decode(wrapped)


def test_encrypted_files_are_refused(tmp_path: Path) -> None:
    table = pa.table({"caption": ["a"], "number": [1]})
    path = str(tmp_path / "a.parquet")
    chosen = encryption.EncryptionConfiguration("k", column_keys={"k": ["caption"]})
    keys = encryption.CryptoFactory(Keys)
    properties = keys.file_encryption_properties(encryption.KmsConnectionConfig(), chosen)
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    for columns in (["caption"], ["number"], None):
        for read in (lambda names: tables.read([path], names), lambda names: list(tables.batches(path, names))):
            with pytest.raises(UserError, match=r"a\.parquet: is encrypted; write it again without encryption"):
                read(columns)


def test_a_footer_that_is_signed_tells_of_encrypted_columns(tmp_path: Path) -> None:
    """A signature of 28 bytes stands behind the footer's own, within the length that the file's end states."""
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"number": [1]}), path)
    footer = pq.read_metadata(path)
    tables.refuse_encrypted(path, footer)
    shorter = cast("pq.FileMetaData", SimpleNamespace(serialized_size=footer.serialized_size - 28))
    with pytest.raises(UserError, match=r"a\.parquet: is encrypted; write it again without encryption"):
        tables.refuse_encrypted(path, shorter)


def test_a_folder_without_tables_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no table")
    with pytest.raises(UserError, match=rf"{tmp_path}: holds no \.parquet file"):
        tables.read_folder(str(tmp_path))
    with pytest.raises(ValueError, match="no Parquet file"):
        tables.read([])


@pytest.mark.parametrize("length", [0, 10, -20])
def test_a_file_that_was_cut_off_is_not_readable(folder: Path, length: int) -> None:
    path = folder / "colour=1" / "a.parquet"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=rf"{path}: not readable as Parquet"):
        tables.read([str(path)])
