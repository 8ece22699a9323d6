"""The store's pure parts: half-precision columns, digests, label sets, verification, the lock."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.base import one_writer, row_digest
from infra.base.errors import UserError
from pipelines.latents import label_files, schemas, store


def test_value_lists_round_trip_through_parquet(tmp_path: Path) -> None:
    values = (np.arange(12).reshape(3, 4) / 7).astype(np.float16)
    pq.write_table(pa.table({"latents": schemas.value_lists(values)}), tmp_path / "x.parquet")
    column = pq.read_table(tmp_path / "x.parquet")["latents"]
    assert column.type == pa.list_(pa.float16(), 4)
    assert np.array_equal(schemas.value_rows(column), values)


def test_masked_value_lists_are_null() -> None:
    values = np.ones((3, 2), np.float16)
    assert schemas.value_lists(values, np.array([False, True, False])).null_count == 1


def test_digest_ignores_row_order_and_sees_every_value() -> None:
    latents = np.arange(6, dtype=np.float16).reshape(3, 2)
    table = pa.table({"pair_id": [1, 2, 3], "latents_0": schemas.value_lists(latents)})
    assert row_digest.rows_digest(table) == row_digest.rows_digest(table.take([2, 0, 1]))
    latents = latents.copy()  # Arrow may share the first array's memory
    latents[1, 1] += 1
    assert row_digest.rows_digest(table) != row_digest.rows_digest(
        table.set_column(1, "latents_0", schemas.value_lists(latents))
    )


def test_digests_of_parts_add_up() -> None:
    table = pa.table({"pair_id": [1, 2, 3]})
    parts = row_digest.rows_digest(table.slice(0, 1)) + row_digest.rows_digest(table.slice(1))
    assert parts % (1 << 128) == row_digest.rows_digest(table)


def label_table(ids: list[int], labels: list[float]) -> pa.Table:
    nulls = pa.nulls(len(ids), pa.float32())
    return pa.table(
        {
            "pair_id": ids,
            "score_0": nulls,
            "score_1": nulls,
            "label_0": pa.array(labels, pa.float32()),
            "probability_0": nulls,
        }
    )


def test_label_sets_round_trip_and_tampering_is_seen(tmp_path: Path) -> None:
    folder = str(tmp_path)
    label_files.write_labels(folder, "mine", label_table([2, 1], [0.0, 1.0]), {"scorer": "mine"})
    table, first = label_files.read_labels(folder, "mine")
    assert table["pair_id"].to_pylist() == [1, 2]
    assert table["label_0"].to_pylist() == [1.0, 0.0]
    label_files.write_labels(folder, "other", label_table([2, 1], [1.0, 1.0]), {})
    assert label_files.read_labels(folder, "other")[1] != first
    part = tmp_path / "labels" / "mine" / "part-0.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"labels/mine/part-0\.parquet"):
        label_files.read_labels(folder, "mine")
    with pytest.raises(UserError, match="mine, other"):
        label_files.read_labels(folder, "absent")


def test_absent_unfinished_and_foreign_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no latent store here"):
        store.read_manifest(str(tmp_path))
    (tmp_path / store.WORK).mkdir()
    with pytest.raises(UserError, match="unfinished"):
        store.read_manifest(str(tmp_path))
    (tmp_path / store.MANIFEST).write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(UserError, match="schema version 99"):
        store.read_manifest(str(tmp_path))


@pytest.mark.chaos
def test_a_second_writer_is_refused_until_the_first_ends(tmp_path: Path) -> None:
    first = one_writer.writer_lock(str(tmp_path))
    with first, pytest.raises(UserError, match="another job"), one_writer.writer_lock(str(tmp_path)):
        pass
    with one_writer.writer_lock(str(tmp_path)):
        pass
