"""Columns as other tools write them: read rightly on driver and workers alike, or refused by file and column."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.material import rendered_pairs
from support.raw_columns import ids, pairs_table, put, read, write

from infra.base.errors import UserError
from pipelines.raw import columns, pairs, raw_table

Change = Callable[[pa.Table], pa.Table]


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


def test_a_class_label_is_not_taken_for_a_label(tmp_path: Path) -> None:
    about = {"info": {"features": {"label_0": {"names": ["0", "0.5", "1"], "_type": "ClassLabel"}}}}
    table = put(pairs_table(), "label_0", pa.array([0, 1, 2] * 2))
    with pytest.raises(UserError, match=r"a\.parquet: column label_0 is a ClassLabel with the names \['0', '0.5', '1'"):
        raw_table.open_source(write(tmp_path, table.replace_schema_metadata({"huggingface": json.dumps(about)})))


def test_decimal_labels_are_exact() -> None:
    rows = pa.record_batch({"label_0": pa.array([Decimal("0.5"), Decimal("1.0"), None], pa.decimal128(2, 1))})
    assert columns.typed(rows, ["label_0"], "x")["label_0"].to_pylist() == [0.5, 1.0, None]
