"""Sources in other formats, names and scales: refused before anything is encoded, by what they are."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.base.errors import UserError
from pipelines.raw import other_formats, raw_table, source
from pipelines.raw.decode import BadImage, open_image
from pipelines.raw.label_values import LabelValues


def encoded(kind: str) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(written, kind)
    return written.getvalue()


PNG = encoded("PNG")
ARRAY = io.BytesIO()
np.save(ARRAY, np.zeros((2, 2, 3), np.uint8))
HELD = {
    "base64 text": base64.b64encode(PNG),
    "a data URI": b"data:image/png;base64," + base64.b64encode(PNG),
    "a path": b"images/0001.png",
    "a NumPy array": ARRAY.getvalue(),
    "a pickle": b"\x80\x04\x95\x05",
    "AVIF": b"\x00\x00\x00\x1cftypavif" + bytes(20),
    "HEIC": b"\x00\x00\x00\x1cftypheic" + bytes(20),
    "JPEG XL": b"\xff\x0a" + bytes(20),
    "a page of HTML": b"<!DOCTYPE html><p>log in",
}


def pairs(count: int = 4, **columns: Any) -> pa.Table:
    usual = {"caption": ["a"] * count, "jpg_0": [PNG] * count, "jpg_1": [PNG] * count, "label_0": [1.0] * count}
    return pa.table(usual | columns)


@pytest.mark.parametrize(("held", "content"), HELD.items(), ids=HELD)
def test_a_source_of_something_else_than_images_is_refused_at_once(tmp_path: Path, held: str, content: bytes) -> None:
    """Once, all its pairs were quarantined one by one."""
    path = str(tmp_path / "a.parquet")
    pq.write_table(pairs(jpg_1=[content] * 4), path)
    with pytest.raises(UserError, match=rf"a\.parquet: column jpg_1 holds {held} in place of an image's bytes; write"):
        other_formats.refuse_no_images([path])
    pq.write_table(pairs(jpg_1=[content, PNG, content, None]), path)
    other_formats.refuse_no_images([path])  # such a row costs itself alone
    with pytest.raises(BadImage, match=f"image is {held}, which is not read"):
        open_image(content)


def test_images_that_are_read_are_not_taken_for_others(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        content = encoded(kind)
        pq.write_table(pairs(jpg_0=[content] * 4, jpg_1=[b"torn"] * 4), tmp_path / "a.parquet")
        other_formats.refuse_no_images([str(tmp_path / "a.parquet")])
    empty = pairs(0).cast(pairs(1).schema)
    pq.write_table(empty, tmp_path / "a.parquet")
    other_formats.refuse_no_images([str(tmp_path / "a.parquet")])


@pytest.mark.parametrize("name", ["b.PARQUET", "b.pq", "b.parquet.gzip", "b.snappy.parq"])
def test_files_of_parquet_under_other_names_are_not_left_out(tmp_path: Path, name: str) -> None:
    """Once, their rows were; pandas' pages save as df.parquet.gzip."""
    pq.write_table(pairs(), tmp_path / "a.parquet")
    assert len(source.parquet_files(str(tmp_path), "train")) == 1
    pq.write_table(pairs(), tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} does not end in \.parquet, so its rows would be left out; rename it"):
        source.parquet_files(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"PAR1....", r"it holds Parquet under another name: rename it to .*/pairs\.parquet$"),
        (b"ARROW1\0\0", "it holds Arrow; write its table as Parquet"),
        (b"\xff\xff\xff\xff\xf8", "it holds an Arrow stream; write its table as Parquet"),
        (b"ORC....", "it holds ORC; write"),
        (b"Obj\x01...", "it holds Avro; write"),
        (b"SQLite format 3", "it holds SQLite; write"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "pairs.dat").write_bytes(content)
    with pytest.raises(UserError, match=rf"--source .*pairs\.dat: is no \.parquet file; {told}"):
        source.parquet_files(str(tmp_path / "pairs.dat"), "train")


def test_a_packed_table_of_comparisons_is_told_how_to_become_raw_pairs(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(
        UserError, match=r"make raw pairs with `python .*pipelines/import_pairs\.py --table .*pairs\.csv\.gz"
    ):
        source.parquet_files(str(tmp_path / "pairs.csv.gz"), "train")


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([1, -1, 1, -1] * 3, "6 of 12 rows have a label_0 that is none, for example -1 in 6; write 1 where"),
        ([1, 2, 1, 2] * 3, "for example 2 in 6"),
        ([0.8, 0.2, 0.6, 0.5], None),  # three, which may be slips
        ([0.8, 0.2, 0.2, 0.5] * 2, "6 of 8 rows have a label_0 that is none, for example 0.2 in 4"),
        (["left", "right", "tie", "left"], "4 of 4 rows have a label_0 that is none, as they are no numbers"),
        (["TRUE", "false", "0,5", "1"], None),
        ([1.0, 0.0, 0.5, None] * 3, None),
        ([1.0] * 20 + [2.0] * 4, None),  # of 24, less than a quarter
    ],
)
def test_labels_of_another_scale_are_refused_before_one_side_is_lost(
    tmp_path: Path, labels: list[Any], told: str | None
) -> None:
    """Once, of labels -1 and 1, the pairs whose slot 0 won were kept and all others quarantined."""
    ids = {name: [f"{name}-{row}" for row in range(len(labels))] for name in ("ranking_id", "image_0_uid")}
    table = pairs(len(labels), label_0=labels, image_1_uid=["x"] * len(labels), **ids)
    pq.write_table(table, tmp_path / "a.parquet")
    seen = LabelValues()
    raw_table.all_pair_ids(raw_table.open_source([str(tmp_path / "a.parquet")]), seen)
    if told is None:
        seen.refuse("--source x")
    else:
        with pytest.raises(UserError, match=rf"^--source x: .*{told}"):
            seen.refuse("--source x")
