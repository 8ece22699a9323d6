"""Splits by the names of a folder's files; names that other readers pass over; links that lead nowhere."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from support.material import rendered_pairs, write_pairs

from infra.base.errors import UserError
from pipelines.raw import raw_table, source
from pipelines.raw.splits import split_of

SHARDS = ("train", "validation", "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with two pairs in each of three splits, as a downloaded dataset has them."""
    for number, name in enumerate(SHARDS):
        place = write_pairs(tmp_path / name, rendered_pairs(2, seed=number))
        (tmp_path / "all" / "data").mkdir(parents=True, exist_ok=True)
        (place / "pairs-00000.parquet").rename(tmp_path / "all" / "data" / f"{name}-00000-of-00001.parquet")
    return tmp_path / "all"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00001.parquet", "train"),
        ("data/validation_unique-00000-of-00001.parquet", "validation_unique"),
        ("val.parquet", "validation"),
        ("dev-0.parquet", "validation"),
        ("eval/part-0.parquet", "test"),
        ("my_train_file.parquet", "train"),
        ("Test1.parquet", "test"),
        ("pairs-00000.parquet", None),
        ("trainer.parquet", None),
        ("contest.parquet", None),
        ("train-test.parquet", None),
        ("train/test-0.parquet", "test"),
    ],
)
def test_the_split_that_a_name_tells(name: str, split: str | None) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("_delta_log/00000000000000000000.json", "Delta Lake"),
        ("metadata/v2.metadata.json", "Apache Iceberg"),
        (".hoodie/hoodie.properties", "Apache Hudi"),
    ],
)
def test_a_table_whose_log_says_which_files_count_is_refused(folder: Path, log: str, kind: str) -> None:
    """Its folder keeps the rows that were deleted or replaced."""
    (folder / log).parent.mkdir()
    (folder / log).write_text("{}")
    with pytest.raises(UserError, match=rf"is a {kind} table, whose folder also holds rows that were removed"):
        source.parquet_files(str(folder), "train")


def test_a_folder_of_save_to_disk_is_refused_with_the_command_that_exports_it(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"caption": ["a"]}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UserError, match=r"holds no \.parquet file, but \.arrow, as .*load_from_disk\('"):
        source.parquet_files(str(tmp_path / "saved"), "train")
    with pytest.raises(
        UserError, match=r"\.arrow: is no \.parquet file; it is \.arrow, as .*load_from_disk\('\S+/saved'"
    ):
        source.parquet_files(str(tmp_path / "saved" / "data-00000-of-00001.arrow"), "train")


@pytest.mark.parametrize("split", SHARDS)
def test_a_folder_of_several_splits_gives_the_one_asked_for(folder: Path, split: str) -> None:
    assert source.parquet_files(str(folder), split) == [str(folder / "data" / f"{split}-00000-of-00001.parquet")]


def test_a_split_that_is_not_there_is_refused_with_those_that_are(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no split 'dev'; its files' names tell test, train, validation"):
        source.parquet_files(str(folder), "dev")
    (folder / "data" / "train-00000-of-00001.parquet").unlink()
    with pytest.raises(UserError, match="no split 'train'; its files' names tell test, validation"):
        source.parquet_files(str(folder), "train")
    plain = write_pairs(tmp_path / "plain", rendered_pairs(2))
    with pytest.raises(UserError, match="no split 'test'; its files' names tell no split: leave --split out"):
        source.parquet_files(str(plain), "test")


def test_a_file_of_no_split_beside_several_is_refused(folder: Path) -> None:
    write_pairs(folder / "more", rendered_pairs(2, seed=9))
    with pytest.raises(UserError, match=r"more/pairs-00000\.parquet belongs to none of the splits"):
        source.parquet_files(str(folder), "train")


def test_a_folder_of_one_split_is_taken_whole_as_before(folder: Path) -> None:
    for name in ("train", "validation"):
        (folder / "data" / f"{name}-00000-of-00001.parquet").unlink()
    assert source.parquet_files(str(folder), "train") == [str(folder / "data" / "test-00000-of-00001.parquet")]


def test_names_that_other_readers_pass_over_are_passed_over(tmp_path: Path) -> None:
    given = tmp_path / "_landing" / ".day"  # what was given itself may have such a name
    write_pairs(given, rendered_pairs(2))
    write_pairs(given / "_temporary" / "0", rendered_pairs(2, seed=1))
    (given / "._pairs-00000.parquet").write_bytes(b"\0\5\x16\7 of macOS")
    assert source.parquet_files(str(given), "train") == [str(given / "pairs-00000.parquet")]


def test_what_a_path_is_called_is_no_column(tmp_path: Path) -> None:
    rows = rendered_pairs(4)
    folder = write_pairs(tmp_path / "label_0=1" / "caption=x", rows)
    raw = raw_table.open_source(source.parquet_files(str(folder), "train"))
    labels = [label for piece in raw.pieces(["label_0"]) for label in piece["label_0"].to_pylist()]
    assert labels == [row["label_0"] for row in rows]


def test_a_link_to_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    snapshot = write_pairs(tmp_path / "snapshots" / "abc", rendered_pairs(2))
    (snapshot / "more.parquet").symlink_to(tmp_path / "blobs" / "0123")
    with pytest.raises(UserError, match=r"more\.parquet is a link to .*blobs/0123, which is gone; download it again"):
        source.parquet_files(str(snapshot), "train")
