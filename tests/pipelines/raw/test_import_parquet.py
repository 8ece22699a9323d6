"""Own tables of Parquet: those that hold their images, their votes, and columns that are no plain numbers."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.own_tables import folder_of_photos, imported, refusal  # noqa: F401  (a fixture)

from infra.base import tables
from pipelines.raw import raw_pairs, streamed_pairs
from pipelines.raw.import_config import ImportConfig
from pipelines.raw.import_pairs import main
from pipelines.raw.table_places import Table


def test_parquet_in_our_own_layout_may_hold_the_images(folder: Path) -> None:
    """As datasets or pandas write them: a struct of bytes and path, or bytes. A path alone is looked for."""
    shown = [(folder / "photos" / name).read_bytes() for name in ("0001", "1")]
    plain = {"caption": ["a"], "label_0": [0.5]}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = {
        "bytes": [pa.array([content]) for content in shown],
        "structs": [pa.array([{"bytes": content, "path": None}], kind) for content in shown],
        "paths": [pa.array([{"bytes": None, "path": name}], kind) for name in ("0001", "1")],
    }
    for name, (first, second) in cells.items():
        pq.write_table(pa.table(plain | {"image_0": first, "image_1": second}), folder / f"{name}.parquet")
        table = imported(folder, f"{name}.parquet", (folder / f"{name}.parquet").read_bytes(), name)
        assert [table["jpg_0"][0].as_py(), table["jpg_1"][0].as_py()] == shown
        assert table["label_0"].to_pylist() == [0.5]


def test_votes_beside_images_inside_parquet_become_soft_labels(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [[(folder / "photos" / name).read_bytes()] for name in ("0001", "1")]
    voted = {"caption": ["a"], "image_0": shown[0], "image_1": shown[1], "votes_0": [1], "votes_1": [3]}
    pq.write_table(pa.table(voted), folder / "t.parquet")
    table = imported(folder, "t.parquet", (folder / "t.parquet").read_bytes())
    assert (table["label_0"].to_pylist(), table["probability_0"].to_pylist()) == ([0.0], [0.25])
    assert "1 pairs have votes of several people; on average 75.0% of a pair's votes are" in capsys.readouterr().out


VOTES = {
    "in a later row": [(None, 3, 1)],  # of each file, the votes for image_0 in its rows, of four
    "in the first row": [(3, None, 1)],
    "in a whole file": [(3, 3), (None, None)],
    "in the first file": [(None, None), (3, 3)],
}


@pytest.mark.parametrize("bytes_per_file", [1, raw_pairs.BYTES_PER_FILE], ids=["a pair a file", "one file"])
@pytest.mark.parametrize("shards", VOTES.values(), ids=VOTES)
def test_pairs_without_votes_have_their_label_as_a_soft_one(
    folder: Path, shards: list[tuple[int | None, ...]], bytes_per_file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 votes of 4 are 0.75, 1 of 4 is 0.25, and no votes beside the label 1 are 1."""
    monkeypatch.setattr(raw_pairs, "BYTES_PER_FILE", bytes_per_file)
    shown = [(folder / "photos" / name).read_bytes() for name in ("0001", "1")]
    for number, votes in enumerate(shards):
        rows = [
            {"caption": f"{number} {row}", "image_0": shown[0], "image_1": shown[1], "label_0": int(first != 1)}
            | {"votes_0": first, "votes_1": None if first is None else 4 - first}
            for row, first in enumerate(votes)
        ]
        (folder / "set").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "set" / f"{number}.parquet")
    main(ImportConfig(table=str(folder / "set"), output=str(folder / "raw")))
    made = [pq.read_table(path)["probability_0"] for path in sorted((folder / "raw").glob("*.parquet"))]
    soft = [value for column in made for value in column.to_pylist()]
    assert soft == [1.0 if first is None else first / 4 for votes in shards for first in votes]


@pytest.mark.parametrize("with_images", [True, False])
def test_a_class_label_in_a_table_is_refused(
    folder: Path, with_images: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """The names ["image_0", "image_1"] store a 0 where image_0 is better, which read as a label is the opposite."""
    features = {"label_0": {"names": ["image_0", "image_1"], "_type": "ClassLabel"}}
    images = [(folder / "photos" / name).read_bytes() if with_images else name for name in ("0001", "1")]
    table = pa.table({"caption": ["a"], "image_0": [images[0]], "image_1": [images[1]], "label_0": [0]})
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(about), folder / "t.parquet")
    told = refusal(folder, "t.parquet", (folder / "t.parquet").read_bytes(), capsys)
    assert "t.parquet: column label_0 is a ClassLabel with the names ['image_0', 'image_1'], whose stored" in told


@pytest.mark.parametrize("column", ["rating", "votes_0", "label_0"])
def test_a_class_label_that_nothing_reads_is_no_hindrance(folder: Path, column: str) -> None:
    """These are HPDv3's columns and one more, for example of a filter."""
    table = pa.table({"prompt": ["a"], "path1": ["0001"], "path2": ["1"], column: [0]})
    about = {"huggingface": json.dumps({"info": {"features": {column: {"names": ["good"], "_type": "ClassLabel"}}}})}
    pq.write_table(table.replace_schema_metadata(about), folder / "t.parquet")
    assert imported(folder, "t.parquet", (folder / "t.parquet").read_bytes()).num_rows == 1


@pytest.mark.parametrize(
    ("columns", "asked", "elsewhere"),
    [
        (("prompt", "chosen", "rejected"), ["0"], 0),
        (("caption", "image_0", "image_1", "label_0"), ["0", "1", "2"], 2),
    ],
    ids=["no number", "label_0"],
)
def test_footers_are_read_at_once_and_only_where_numbers_are(
    tmp_path: Path, columns: tuple[str, ...], asked: list[str], elsewhere: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an hf:// set each footer is a request or more: the first tells the layout, and other threads read the rest."""
    paths = [str(tmp_path / f"{number}.parquet") for number in range(3)]
    for path in paths:
        pq.write_table(pa.table({name: [b"x"] for name in columns}), path)
    read: list[tuple[str, bool]] = []
    schema_of = tables.schema_of

    def noted(path: str) -> pa.Schema:
        read.append((Path(path).stem, threading.current_thread() is threading.main_thread()))
        return schema_of(path)

    monkeypatch.setattr(tables, "schema_of", noted)
    streamed_pairs.parquet_layout(Table("parquet", paths, str(tmp_path)))
    assert sorted(name for name, _ in read) == asked
    assert sum(not is_main for _, is_main in read) == elsewhere


def test_ranked_images_inside_parquet_are_refused_with_what_to_write(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"caption": ["a"], "image": [b"x"], "rank": [1]}), folder / "t.parquet")
    told = refusal(folder, "t.parquet", (folder / "t.parquet").read_bytes(), capsys)
    assert "its column image holds the images; write them as files and their paths into the column" in told


def test_such_images_inside_parquet_are_told_by_row_and_column(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their names are hashes, which nobody has; and a page of HTML is no picture that could be saved as another."""
    png = (folder / "photos" / "1").read_bytes()
    rest = {"caption": ["a", "b"], "image_0": [png, png], "label_0": [0, 1]}
    remedies = {
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": ("HEIC", "save it as JPEG, PNG or WebP"),
        b"<!DOCTYPE html><p>log in": (
            "a page of HTML",
            "put the image's own bytes there, for example by fetching it again",
        ),
    }
    for number, (content, (kind, remedy)) in enumerate(remedies.items()):
        path = folder / f"{number}.parquet"
        pq.write_table(pa.table(rest | {"image_1": [png, content]}), path)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "dpo"):
            imported(folder, path.name, path.read_bytes())
        assert caplog.messages == [
            f"--table {path}: row 2, image_1 is {kind}, which is not read, so the encoder leaves its pairs out; "
            f"{remedy}, and import again"
        ]
