"""Paths and files, local and in S3: a file is absent or complete, listings are sorted, hashes are of the bytes."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from infra.base import disk_errors, files
from infra.base.errors import UserError


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"{request.getfixturevalue('bucket')}/{tmp_path.name}"


def test_files_are_written_listed_read_hashed_and_removed(folder: str) -> None:
    path = files.join(folder, "a", "b.bin")
    assert not files.exists(path)
    assert files.list_files(folder) == []
    files.write_bytes(path, b"one")
    files.write_bytes(path, b"two, longer")  # replaces, and leaves nothing beside it
    files.write_bytes(files.join(folder, "a.txt"), b"")
    assert files.list_files(folder) == [files.join(folder, "a.txt"), path]
    assert files.list_files(folder, ".bin") == [path]
    assert files.read_bytes(path) == b"two, longer"
    assert files.sha256(path) == hashlib.sha256(b"two, longer").hexdigest()
    assert (files.is_file(path), files.is_file(files.join(folder, "a"))) == (True, False)
    assert files.exists(files.join(folder, "a"))
    files.remove(files.join(folder, "a"))
    files.remove(files.join(folder, "a"))  # an absent one is no error
    assert files.list_files(folder) == [files.join(folder, "a.txt")]


def test_the_bytes_of_a_packed_file_are_its_own(folder: str) -> None:
    """Arrow would pack and unpack them by the name's end."""
    packed = gzip.compress(b"one")
    path = files.join(folder, "a.gz")
    files.write_bytes(path, packed)
    assert files.size(path) == len(packed)
    assert files.read_bytes(path) == packed
    assert files.sha256(path) == hashlib.sha256(packed).hexdigest()
    assert files.copy(path, files.join(folder, "b.zst")) == hashlib.sha256(packed).hexdigest()
    assert files.read_bytes(files.join(folder, "b.zst")) == packed


def test_a_copy_is_the_bytes_and_tells_their_hash(folder: str, tmp_path: Path) -> None:
    content = bytes(range(256)) * (5 << 12)  # 5 MiB: more than a block
    source = files.join(folder, "a")
    there = files.join(folder, "b/c")
    back = files.join(str(tmp_path), "d/e")
    files.write_bytes(source, content)
    digest = hashlib.sha256(content).hexdigest()
    assert [files.copy(source, there), files.copy(there, back)] == [digest, digest]
    assert files.read_bytes(there) == files.read_bytes(back) == content
    with pytest.raises(OSError, match="none"):
        files.copy(files.join(folder, "none"), back)
    assert files.read_bytes(back) == content


def test_a_copy_that_fails_leaves_no_part_of_itself(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = files.join(folder, "a")
    target = files.join(folder, "b")
    files.write_bytes(source, b"whole")

    def cut(_: object) -> Iterator[bytes]:
        yield b"wh"
        raise OSError("the source went away")

    monkeypatch.setattr(files, "_blocks", cut)
    with pytest.raises(OSError, match="went away"):
        files.copy(source, target)
    assert files.list_files(folder) == [source]


@pytest.mark.parametrize("path", ["s3://KEY:PLANTED@bucket/run", "s3://bucket/run?secret_key=PLANTED"])
def test_a_path_with_credentials_is_refused_and_not_repeated(path: str) -> None:
    with pytest.raises(UserError, match="bucket and folder alone") as refused:
        files.resolve(path)
    assert "PLANTED" not in str(refused.value)
    assert files.resolve("s3://bucket/me@home/run/") == "s3://bucket/me@home/run"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/..", "/etc/x", "", "a//x", "./x"])
def test_a_name_that_leads_out_of_its_folder_is_refused_and_told(name: str) -> None:
    with pytest.raises(UserError, match=r"^s3://bucket/run: names the file .*, which may lie outside") as refused:
        files.inside("s3://bucket/run", name)
    assert repr(name) in str(refused.value)


def test_a_name_below_its_folder_is_joined() -> None:
    assert files.inside("/data/run", "shards/a..b.safetensors") == "/data/run/shards/a..b.safetensors"


def test_a_table_is_one_file_and_its_hash_that_of_the_bytes(folder: str) -> None:
    path = files.join(folder, "t.parquet")
    table = pa.table({"x": [1, 2, 3]})
    assert files.write_table(path, table) == files.sha256(path)
    filesystem, inner = files.open_filesystem(path)
    assert pq.read_table(inner, filesystem=filesystem).equals(table)


def test_json_comes_back_and_broken_json_is_told_by_its_path(folder: str) -> None:
    path = files.join(folder, "x.json")
    files.write_json(path, {"a": [1, None]})
    assert files.read_json(path) == {"a": [1, None]}
    for broken in (b"{", b"[" * 100_000):  # deeper than Python's parser goes
        files.write_bytes(path, broken)
        with pytest.raises(UserError, match=r"x\.json: not valid JSON"):
            files.read_json(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    files.write_bytes(str(path), b"old")

    monkeypatch.setattr(files.os, "fsync", Mock(side_effect=OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        files.write_bytes(str(path), b"new")
    assert path.read_bytes() == b"old"


def test_the_hub_is_read_and_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = DirFileSystem(path=str(tmp_path), fs=LocalFileSystem())
    monkeypatch.setattr(fsspec, "filesystem", {"hf": hub}.__getitem__)
    (tmp_path / "datasets" / "me" / "pairs").mkdir(parents=True)
    (tmp_path / "datasets" / "me" / "pairs" / "a.parquet").write_bytes(b"PAR1")
    path = "hf://datasets/me/pairs/a.parquet"
    assert files.list_files("hf://datasets/me/pairs") == [path]
    assert files.read_bytes(path) == b"PAR1"
    assert files.sha256(path) == hashlib.sha256(b"PAR1").hexdigest()
    again, inner = pickle.loads(pickle.dumps(files.open_filesystem(path)))  # as it reaches another process
    assert again.open_input_stream(inner).read() == b"PAR1"
    for write in (lambda: files.write_bytes(path, b""), lambda: files.remove(path)):
        with pytest.raises(UserError, match="only read"):
            write()
    assert files.read_bytes(path) == b"PAR1"


def test_what_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    down = LocalFileSystem(skip_instance_cache=True)
    monkeypatch.setattr(down, "info", Mock(side_effect=ConnectionError("no route to host\nand many lines more")))
    monkeypatch.setattr(fsspec, "filesystem", {"hf": down}.__getitem__)
    with pytest.raises(UserError, match=r"^hf://datasets/x: cannot be reached \(no route to host\)$"):
        files.exists("hf://datasets/x")


def test_an_installed_copy_takes_no_relative_paths_but_those_of_its_own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROOT", Path("/opt/venv/lib/python3.11/site-packages"))
    with pytest.raises(UserError, match="runs/store: this is an installed copy"):
        files.resolve("runs/store")
    assert files.resolve("infra/world/model") == "/opt/venv/lib/python3.11/site-packages/infra/world/model"
    shapes = "infra/benchmarks/shapes/sd15"
    assert files.resolve(shapes) == f"/opt/venv/lib/python3.11/site-packages/{shapes}"
    assert files.resolve("/data/store") == "/data/store"


@pytest.mark.chaos
@pytest.mark.parametrize("write", [files.write_bytes, lambda path, content: Path(path).write_bytes(content)])
@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("file/inner", "a file lies where a folder should; move it away"),
        ("folder", "a folder lies where a file should; move it away"),
        ("x" * 300, "give a shorter name"),
    ],
)
def test_what_lies_in_the_way_is_one_sentence_with_its_remedy(
    tmp_path: Path, write: Callable[[str, bytes], None], name: str, remedy: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"\[[Ee]rrno \d+\]") as raised:
        write(str(tmp_path / name), b"")
    told = disk_errors.disk_refusal(raised.value)
    assert told is not None
    assert str(tmp_path) in str(told)
    assert "\n" not in str(told)
    # write_bytes makes the folder first, and its mkdir says "File exists" of a file in the way.
    assert remedy in str(told) or "something else lies there already; move it away" in str(told)


def test_an_error_that_may_be_this_codes_own_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Invalid argument") as raised:
        (tmp_path / "file").open("wb").seek(-1)
    assert disk_errors.disk_refusal(raised.value) is None


def test_what_somebody_deleted_meanwhile_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        (tmp_path / "part.partial").replace(tmp_path / "part")
    told = str(disk_errors.disk_refusal(raised.value))
    assert told.startswith(f"{tmp_path}/part.partial: No such file or directory; it is gone, as when somebody moves")


def test_nothing_is_deleted_through_a_link(tmp_path: Path) -> None:
    other = tmp_path / "other" / "step"
    other.mkdir(parents=True)
    (other / "weights").touch()
    own = tmp_path / "own"
    own.mkdir()
    (own / "checkpoints").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match=rf"{own}/checkpoints: a link, and nothing is deleted through one; put the"):
        files.remove(f"{own}/checkpoints/step", below=str(own))
    files.remove(f"{own}/checkpoints")  # the link alone
    (own / "nowhere").symlink_to(tmp_path / "absent")
    files.remove(f"{own}/nowhere")
    assert list(own.iterdir()) == []
    (tmp_path / "alias").symlink_to(own)  # above the folder links are the user's own, and followed
    (own / "folder").mkdir()
    (own / "folder" / "inner").symlink_to(other)
    files.remove(f"{tmp_path}/alias/folder", below=f"{tmp_path}/alias")
    assert list(own.iterdir()) == []
    assert (other / "weights").is_file()


def test_a_work_folder_belongs_to_the_folder_that_it_lies_in() -> None:
    assert files.owner_of("/s/labels/.work/red/scores_done") == "/s/labels"
    assert files.owner_of("/images/.work-flags") == "/images"
    assert files.owner_of("s3://b/store/.work") == "s3://b/store"
    assert files.owner_of("/other/done") == "/other"
