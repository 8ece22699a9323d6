"""Where a store may begin: in no source, among no other files; paths are compared by where they lead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.stores import refusal

from infra.base import files
from infra.base.errors import UserError
from pipelines.latents import begun_store, store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with raw pairs in raw/ by name alone, and links into and out of it."""
    for name in ("raw/part", "elsewhere", "notes", "theirs"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "raw" / "0.parquet").touch()
    (tmp_path / "notes" / "README.md").write_text("mine")  # a note, or a log, does not look like data
    (tmp_path / "file").touch()
    (tmp_path / "into").symlink_to("raw/part")
    (tmp_path / "raw" / "out").symlink_to("../elsewhere")
    (tmp_path / "same").symlink_to("raw")
    return tmp_path


@pytest.mark.parametrize(
    ("begin", "given", "place"),
    [
        (".", "raw", "raw"),
        (".", "raw", "raw/store"),
        ("raw", "../raw", "store"),
        ("raw", ".", "store"),
        (".", "raw/../raw", "raw/store"),
        (".", "raw", "into"),
        (".", "raw", "into/store"),
        (".", "same", "raw/store"),
        (".", "raw", "raw/out"),  # readers of a folder follow its links
        (".", "raw", "elsewhere/../raw/store"),
        (".", "raw", "raw/_new"),  # raw_pairs.py clears it
    ],
)
def test_a_store_in_the_folder_of_its_source_is_refused(begin: str, given: str, place: str, folder: Path) -> None:
    with files.counting_from(folder / begin), pytest.raises(UserError, match=f": lies in --source {given}, so"):
        begun_store.refuse_place(files.resolve(place), given)


@pytest.mark.parametrize(
    ("begin", "given", "place"),
    [
        (".", "raw", "raw-store"),
        (".", "raw", "raw/../store"),
        ("raw", ".", "../store"),
        (".", "raw", "raw/_store"),
        (".", "raw", "raw/part/.store/more"),
        (".", "raw", "notes"),
        (".", "owner/name", "store"),
    ],
)
def test_a_store_beside_its_source_is_begun(begin: str, given: str, place: str, folder: Path) -> None:
    with files.counting_from(folder / begin):
        begun_store.refuse_place(files.resolve(place), given)


@pytest.mark.parametrize(("place", "is_refused"), [("raw/store", True), ("raw", True), ("raw-store", False)])
def test_paths_on_s3_are_compared_as_they_are_spelled(place: str, is_refused: bool, bucket: str) -> None:
    if is_refused:
        with pytest.raises(UserError, match="lies in --source"):
            begun_store.refuse_place(f"{bucket}/begun/{place}", f"{bucket}/begun/raw/")
    else:
        begun_store.refuse_place(f"{bucket}/begun/{place}", f"{bucket}/begun/raw/")


@pytest.mark.parametrize("name", ["0001.PNG", "more/2.jpg", "pairs.csv", "x.parquet", "x.arrow", "more/X.Parquet"])
def test_a_store_is_not_begun_among_other_people_s_files(name: str, folder: Path) -> None:
    theirs = folder / "theirs"
    files.write_bytes(str(theirs / name), b"")
    told = refusal("--source", str(folder / "raw"), "--store", str(theirs))
    assert f"theirs: holds images or tables that are of no store (for example {name}); give a folder of" in told
    assert files.list_files(str(theirs)) == [str(theirs / name)]
    (theirs / store.WORK).mkdir()  # one that was begun goes on
    begun_store.refuse_place(str(theirs), str(folder / "raw"))


def test_a_file_is_no_place_for_a_store(folder: Path) -> None:
    assert f"--store {folder}/file: is a file; give a folder" in refusal(
        "--source", str(folder / "raw"), "--store", str(folder / "file")
    )


@pytest.mark.parametrize("place", [pytest.param(str, id="disk"), pytest.param(None, id="S3")])
def test_the_look_ends_at_the_first_file_of_others(
    place: Callable[[Path], str] | None, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three folders of files only the first two are listed: that of the store, and that of the first image."""
    where = place(tmp_path / "many") if place else f"{bucket}/many"
    for name in ("README.md", "a/1.png", "b/2.png"):
        files.write_bytes(f"{where}/{name}", b"x")
    listed: list[str] = []
    entries = files._entries

    def noted(folder: str, recursive: bool) -> object:
        listed.append(folder)
        return entries(folder, recursive)

    monkeypatch.setattr(files, "_entries", noted)
    with pytest.raises(UserError, match=r"\(for example a/1\.png\)"):
        begun_store.refuse_place(where, "owner/name")
    assert [name for name in listed if not name.endswith("/pairs")] == [where, f"{where}/a"]
    listed.clear()
    monkeypatch.setattr(begun_store, "MOST_FOLDERS", 1)
    begun_store.refuse_place(where, "owner/name")
    assert [name for name in listed if not name.endswith("/pairs")] == [where]
