"""Rows that repeat others are counted, in either order of the images, by uids or by the images' bytes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.material import rendered_pairs, write_pairs

from infra.base import engines
from pipelines.latents import store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.encode_latents import main
from pipelines.raw import pairs, raw_table, repeats

Row = tuple[str, str, str, float | None]  # caption, images in slots 0 and 1, label_0
ROWS: list[Row] = [
    ("a cat", "A", "B", 1.0),  # 0: A wins
    ("a cat", "B", "A", 0.0),  # 1: the same again, the slots exchanged: A wins
    ("a cat", "B", "A", 1.0),  # 2: B wins, against row 0
    ("a dog", "A", "B", 0.0),  # 3: another caption
    ("a dog", "A", "B", 0.5),  # 4: a tie repeats row 3, and disagrees with nobody
    ("a dog", "C", "C", 1.0),  # 5: one image
    ("a dog", "A", "B", 0.0),  # 6: row 3 again
    ("a dog", "A", "B", 1.0),  # 7: against row 3
    ("a dog", "A", "B", None),  # 8: repeats, says nothing
]


def table_of(rows: list[Row], as_uids: bool) -> pa.Table:
    columns: Mapping[str, Any] = {
        "caption": [row[0] for row in rows],
        "jpg_0": [row[1].encode() for row in rows],
        "jpg_1": [row[2].encode() for row in rows],
        "label_0": pa.array([row[3] for row in rows], pa.float64()),
    }
    if not as_uids:
        return pa.table(columns)
    ids = {
        "ranking_id": list(range(len(rows))),
        "image_0_uid": [row[1] for row in rows],
        "image_1_uid": [row[2] for row in rows],
    }
    return pa.table({**columns, **ids})


@pytest.mark.parametrize("as_uids", [True, False])
@pytest.mark.parametrize("cut", [2, 9])
def test_what_repeats_is_counted_and_the_first_is_named(as_uids: bool, cut: int) -> None:
    seen = repeats.Seen()
    for start in range(0, len(ROWS), cut):
        seen.add(table_of(ROWS, as_uids).slice(start, cut))
    found = seen.count()
    assert (found.repeated, found.disagreeing, found.same_images) == (6, 2, 1)  # 1, 2, 4, 6, 7, 8; 2, 7; 5
    assert found.sentences == (
        "rows with the caption and images of an earlier row, each kept: 6 (row 1 has those of row 0, counted from 0)",
        "of these, rows that prefer the other image: 2 (row 2 against row 0)",
        "rows with one image in both slots, which teach nothing: 1 (row 5)",
    )


def test_rows_without_images_or_caption_are_passed_over() -> None:
    rows = pa.table({"caption": ["x", "x", None], "label_0": [1.0, 1.0, 1.0], "jpg_0": [b"a", None, b"a"]})
    seen = repeats.Seen()
    seen.add(rows.append_column("jpg_1", pa.array([None, None, b"b"], pa.binary())))
    assert seen.count() == repeats.Repeats()


def test_of_a_source_with_ids_no_image_is_read_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(table_of(ROWS, as_uids=True), tmp_path / "a.parquet")
    asked: list[list[str]] = []
    read = raw_table.read_pieces

    def noting(path: str, names: list[str]) -> Iterator[pa.Table]:
        asked.append(names)
        return read(path, names)

    monkeypatch.setattr(raw_table, "read_pieces", noting)
    seen = repeats.Seen()
    raw = raw_table.open_source([str(tmp_path / "a.parquet")])
    ids = raw_table.all_pair_ids(raw, seen)
    assert asked == [["ranking_id", "image_0_uid", "image_1_uid", "caption", "label_0"]]
    assert ids.tolist() == pairs.pair_ids(table_of(ROWS, as_uids=True)).tolist()
    assert seen.count().repeated == 6


def test_the_encoder_says_so_and_its_manifest_has_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = rendered_pairs(4)
    again = rows[0] | {"ranking_id": 99, "label_0": 1 - rows[0]["label_0"], "label_1": None}
    raw = write_pairs(tmp_path / "raw", [*rows, again])
    with engines.asking("local"), caplog.at_level(logging.WARNING, "dpo"):
        main(EncodeConfig(source=str(raw), store=str(tmp_path / "store")))
    told = caplog.text
    assert f"--source {raw}: rows with the caption and images of an earlier row, each kept: 1 (row" in told
    assert f"--source {raw}: of these, rows that prefer the other image: 1 (row 4 against row 0)" in told
    counts = store.read_manifest(str(tmp_path / "store")).counts
    assert (counts.repeated, counts.disagreeing, counts.same_images) == (1, 1, 0)
