"""Columns as other tools write them: read rightly on driver and workers alike, or refused by file and column."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.material import rendered_pairs, write_pairs

from infra.base.errors import UserError
from pipelines.raw import columns, pairs, raw_table
from pipelines.raw.raw_pairs import SCHEMA

Change = Callable[[pa.Table], pa.Table]


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


def uuids(name: str) -> Change:
    """Store an id as DuckDB stores a UUID."""

    def change(table: pa.Table) -> pa.Table:
        made = [uuid.uuid5(uuid.NAMESPACE_OID, text).bytes for text in table[name].to_pylist()]
        return put(table, name, pa.ExtensionArray.from_storage(pa.uuid(), pa.array(made, pa.binary(16))))

    return change


def as_text_uuids(name: str) -> Change:
    """Store the same id as text."""

    def change(table: pa.Table) -> pa.Table:
        return put(table, name, pa.array([str(uuid.uuid5(uuid.NAMESPACE_OID, v)) for v in table[name].to_pylist()]))

    return change


def cast(name: str, kind: pa.DataType) -> Change:
    """Store a column as another type."""
    return lambda table: put(table, name, table[name].cast(kind))


def encoded(name: str) -> Change:
    """Store a column as a dictionary, as pandas stores a category."""
    return lambda table: put(table, name, table[name].dictionary_encode())


def test_a_uuid_is_the_same_id_as_its_text(tmp_path: Path) -> None:
    table = pairs_table()
    stored = uuids("image_1_uid")(uuids("image_0_uid")(table))
    written = as_text_uuids("image_1_uid")(as_text_uuids("image_0_uid")(table))
    assert ids(write(tmp_path / "uuid", stored)) == ids(write(tmp_path / "text", written))
    assert read(write(tmp_path / "uuid", stored))["image_0_uid"].to_pylist() == written["image_0_uid"].to_pylist()


SAME = {
    "ranking_id as double": cast("ranking_id", pa.float64()),
    "ranking_id as uint32": cast("ranking_id", pa.uint32()),
    "ranking_id as decimal": cast("ranking_id", pa.decimal128(20, 0)),
    "ranking_id as text": cast("ranking_id", pa.string()),
    "caption as dictionary": encoded("caption"),
    "caption as large_string": cast("caption", pa.large_string()),
    "caption as string_view": cast("caption", pa.string_view()),
    "caption as bytes of UTF-8": cast("caption", pa.binary()),
    "uid as dictionary": encoded("image_0_uid"),
    "label_0 as decimal": cast("label_0", pa.decimal128(2, 1)),
    "label_0 as float16": cast("label_0", pa.float16()),
    "label_0 as float32": cast("label_0", pa.float32()),
    "label_0 as text": cast("label_0", pa.string()),
    "images as large_binary": cast("jpg_0", pa.large_binary()),
    "images as binary_view": cast("jpg_0", pa.binary_view()),
    "model_0 as dictionary": encoded("model_0"),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
@pytest.mark.parametrize("order", [1, -1])
def test_a_column_of_another_type_in_one_file_is_the_same_column(tmp_path: Path, change: Change, order: int) -> None:
    table = pairs_table()
    plain = write(tmp_path / "plain", *[table.slice(0, 3), table.slice(3)][::order])
    drifted = write(tmp_path / "drifted", *[table.slice(0, 3), change(table.slice(3))][::order])
    assert ids(drifted) == ids(plain)
    assert read(drifted).equals(read(plain))


def test_whole_labels_are_read_as_integers_and_booleans_too(tmp_path: Path) -> None:
    table = pairs_table(3)
    for kind in (pa.int8(), pa.int64(), pa.bool_()):
        column = pa.array([1, 0, 1]).cast(kind)
        read_back = read(write(tmp_path / str(kind), put(table, "label_0", column)))
        assert read_back["label_0"].to_pylist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("kind", [pa.bool_(), pa.int64()], ids=str)
def test_ties_stay_ties_behind_a_file_whose_labels_know_none(tmp_path: Path, kind: pa.DataType) -> None:
    table = pairs_table(5)
    first = put(table.slice(0, 2), "label_0", pa.array([1, 0]).cast(kind))
    second = put(table.slice(2), "label_0", pa.array([0.0, 0.5, 1.0]))
    assert read(write(tmp_path, first, second))["label_0"].to_pylist() == [1.0, 0.0, 0.0, 0.5, 1.0]


def test_a_text_that_is_no_number_costs_its_own_row(tmp_path: Path) -> None:
    table = put(pairs_table(3), "label_0", pa.array(["1.0", "left", None]))
    labels = read(write(tmp_path, table))["label_0"].to_pylist()
    reasons = [pairs.check_label(label, None, strict=False) for label in labels]
    assert reasons[0] is None
    assert [reason.reason for reason in reasons[1:] if reason] == ["label_0 is nan, not 0, 0.5 or 1", "label_0 is null"]


def test_a_ranking_id_that_is_no_whole_number_is_refused_by_file_and_column(tmp_path: Path) -> None:
    table = pairs_table()
    broken = put(table.slice(3), "ranking_id", pa.array([1.0, 2.5, 3.0]))
    raw = raw_table.open_source(write(tmp_path, table.slice(0, 3), broken))
    with pytest.raises(UserError, match=r"b\.parquet: column ranking_id is not text, whole numbers or UUIDs"):
        raw_table.all_pair_ids(raw)


def image_struct(table: pa.Table, lost: int | None = None) -> pa.Table:
    """Store images as datasets stores its Image feature; of one row the path alone."""
    for name in ("jpg_0", "jpg_1"):
        content = table[name].to_pylist()
        rows = [
            {"bytes": None, "path": "/home/me/a.jpg"} if row == lost else {"bytes": image, "path": None}
            for row, image in enumerate(content)
        ]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = put(table, name, pa.array(rows, kind))
    return table


def test_images_as_datasets_stores_them_are_their_bytes(tmp_path: Path) -> None:
    table = pairs_table()
    plain = write(tmp_path / "plain", table)
    wrapped = write(tmp_path / "struct", image_struct(table))
    assert ids(wrapped) == ids(plain)
    assert read(wrapped).equals(read(plain))


@pytest.mark.parametrize("statistics", [True, False])
def test_paths_without_the_images_are_refused_by_file_and_column(tmp_path: Path, statistics: bool) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(image_struct(pairs_table(), lost=2), path, write_statistics=statistics)
    with pytest.raises(UserError, match=r"a\.parquet: column jpg_0 .* the image.* bytes"):
        read([path])


def test_the_way_that_this_refusal_names_takes_the_images_in(tmp_path: Path) -> None:
    """datasets' to_parquet leaves images that are files outside; its save_to_disk reads them."""
    rows = rendered_pairs(4)
    for number, row in enumerate(rows):
        for name in ("jpg_0", "jpg_1"):
            file = tmp_path / f"{number}-{name}"
            file.write_bytes(row[name])
            row[name] = str(file)
    kept = [name for name in pairs_table().column_names if name in rows[0]]
    dataset = datasets.Dataset.from_list([{name: row[name] for name in kept} for row in rows])
    for name in ("jpg_0", "jpg_1"):
        dataset = dataset.cast_column(name, datasets.Image())
    dataset.to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(UserError, match=r"gives 4 paths without .* bytes; save the dataset by datasets' save_to_disk"):
        read([str(tmp_path / "a.parquet")])
    dataset.save_to_disk(str(tmp_path / "saved"))
    datasets.load_from_disk(str(tmp_path / "saved")).to_parquet(str(tmp_path / "b.parquet"))
    shown = read([str(tmp_path / "b.parquet")])
    assert shown["jpg_0"].to_pylist() == [row["jpg_0"] for row in rendered_pairs(4)]


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


def test_a_class_label_is_not_taken_for_a_label(tmp_path: Path) -> None:
    about = {"info": {"features": {"label_0": {"names": ["0", "0.5", "1"], "_type": "ClassLabel"}}}}
    table = put(pairs_table(), "label_0", pa.array([0, 1, 2] * 2))
    with pytest.raises(UserError, match=r"a\.parquet: column label_0 is a ClassLabel with the names \['0', '0.5', '1'"):
        raw_table.open_source(write(tmp_path, table.replace_schema_metadata({"huggingface": json.dumps(about)})))


def test_decimal_labels_are_exact() -> None:
    rows = pa.record_batch({"label_0": pa.array([Decimal("0.5"), Decimal("1.0"), None], pa.decimal128(2, 1))})
    assert columns.typed(rows, ["label_0"], "x")["label_0"].to_pylist() == [0.5, 1.0, None]


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
