"""The files of a source as one table: columns and files that do not do are named, and rows keep their ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.material import rendered_pairs, write_pairs
from support.raw_columns import ids, pairs_table, put, read, write

from infra.base.errors import UserError
from pipelines.raw import pairs, raw_table

Change = Callable[[pa.Table], pa.Table]


REFUSED = {
    "paths as text": (lambda table: put(table, "jpg_0", pa.array(["a.jpg"] * 6)), "column jpg_0 is of type string"),
    "lists of pixels": (lambda table: put(table, "jpg_1", pa.array([[1]] * 6)), "column jpg_1 is of type list"),
    "a caption of numbers": (lambda table: put(table, "caption", pa.array([1] * 6)), "column caption is of type int64"),
    "a label of structs": (lambda table: put(table, "label_0", pa.array([{"a": 1}] * 6)), "column label_0 is of type"),
    "an id of booleans": (lambda table: put(table, "ranking_id", pa.array([True] * 6)), "column ranking_id is of type"),
    "no caption": (lambda table: table.drop_columns("caption"), "no column caption; raw pairs have"),
    "no ranking_id": (lambda table: table.drop_columns("ranking_id"), r"no column ranking_id, which .*a\.parquet has"),
}


@pytest.mark.parametrize(("change", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_later_file_that_is_no_part_of_the_source_is_named(tmp_path: Path, change: Change, sentence: str) -> None:
    with pytest.raises(UserError, match=rf"b\.parquet: {sentence}"):
        raw_table.open_source(write(tmp_path, pairs_table(), change(pairs_table())))


def test_a_column_twice_is_refused(tmp_path: Path) -> None:
    table = pairs_table()
    twice = pa.Table.from_arrays([*table.columns, table["label_0"]], [*table.column_names, "label_0"])
    with pytest.raises(UserError, match=r"a\.parquet: two columns are named label_0"):
        raw_table.open_source(write(tmp_path, twice))


@pytest.mark.parametrize("length", [0, 3, 1000, -20])
def test_a_later_file_that_was_cut_off_is_named(tmp_path: Path, length: int) -> None:
    paths = write(tmp_path, pairs_table(), pairs_table())
    Path(paths[1]).write_bytes(Path(paths[1]).read_bytes()[:length])
    with pytest.raises(UserError, match=r"b\.parquet: not readable as Parquet .*replace it by a whole file"):
        raw_table.open_source(paths)


def test_a_file_with_a_broken_page_is_named_when_it_is_read(tmp_path: Path) -> None:
    (path,) = write(tmp_path, pairs_table())
    content = bytearray(Path(path).read_bytes())
    content[4:2000] = bytes(1996)
    Path(path).write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet: not readable as Parquet"):
        read([path])


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write(tmp_path, pairs_table())

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(pq, "ParquetFile", denied)
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read .*Permission denied") as refused:
        raw_table.open_source([path])
    assert "Parquet (" not in str(refused.value)


def test_columns_that_may_be_absent_are_null_where_a_file_lacks_them(tmp_path: Path) -> None:
    table = pairs_table()
    paths = write(tmp_path, table.slice(0, 3).drop_columns(["label_1", "model_0"]), table.slice(3))
    found = read(paths)
    assert found["label_1"].to_pylist() == [None] * 3 + table["label_1"].to_pylist()[3:]
    assert found["model_0"].to_pylist() == [None] * 3 + table["model_0"].to_pylist()[3:]


def test_a_file_without_rows_adds_none(tmp_path: Path) -> None:
    table = pairs_table()
    empty = pa.table({name: pa.nulls(0) for name in table.column_names})  # as pandas writes an empty frame
    assert ids(write(tmp_path / "two", table, empty)) == ids(write(tmp_path / "one", table))


@pytest.mark.parametrize("kind", ["typed", "null"])
def test_ids_that_are_all_null_are_as_if_there_were_none(tmp_path: Path, kind: str) -> None:
    table = pairs_table()
    nulled = table
    for name in pairs.IDS:
        nulled = put(nulled, name, pa.nulls(6, table[name].type if kind == "typed" else pa.null()))
    assert ids(write(tmp_path / "null", nulled)) == ids(write(tmp_path / "none", table.drop_columns(list(pairs.IDS))))


def test_one_null_id_keeps_the_ids_of_the_others(tmp_path: Path) -> None:
    table = pairs_table()
    nulled = put(table, "ranking_id", pa.array([None, *table["ranking_id"].to_pylist()[1:]], pa.int64()))
    found = ids(write(tmp_path / "null", nulled))
    before = ids(write(tmp_path / "plain", table))
    assert found[1:] == before[1:]
    assert found[0] != before[0]


def test_a_source_without_ids_is_read_a_little_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 12 rows with 40 kB of images, at most 2 are held when 100 kB may be: 100 // 40 = 2."""
    noise = np.random.default_rng(0)
    table = pairs_table(12).drop_columns(list(pairs.IDS))
    for name in ("jpg_0", "jpg_1"):
        table = put(table, name, pa.array([noise.bytes(20_000) for _ in range(12)]))
    paths = write(tmp_path, table)
    monkeypatch.setattr("infra.base.tables.BYTES_AT_ONCE", 100_000)
    sizes = [piece.num_rows for piece in raw_table.read_pieces(paths[0], pairs.IDENTITY_OF_CONTENT)]
    assert sizes == [2] * 6
    assert len(set(ids(paths))) == 12


def test_ids_of_the_embedded_world_are_as_they_always_were(tmp_path: Path) -> None:
    """One row by hand: the id is the hash of ranking_id and both uids, each in its digits or letters."""
    row = rendered_pairs(1)[0]
    found = ids([str(path) for path in sorted(write_pairs(tmp_path, [row]).iterdir())])
    texts = (str(row["ranking_id"]), row["image_0_uid"], row["image_1_uid"])
    assert found == [pairs.hash64(b"pair", *(text.encode() for text in texts))]
