"""A copy that was touched is made again; one that stands as it was left is believed without reading it."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from infra.base import copy_index, files
from infra.base.errors import UserError
from infra.base.node_cache import cache_folder, staged_once

CONTENT = b"latents" * 4096


class Copying:
    """Copy one file, and count how often."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.times = 0

    def __call__(self) -> Path:
        return staged_once(str(self.cache), "name", 1, "a store", self.fill)

    def fill(self, folder: Path) -> None:
        self.times += 1
        (folder / "part").mkdir()
        (folder / "part" / "latents.npy").write_bytes(CONTENT)


@pytest.fixture
def copying(tmp_path: Path) -> Copying:
    return Copying(tmp_path / "cache")


def zero(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))


def hole(path: Path) -> None:
    os.truncate(path, 4096)
    os.truncate(path, len(CONTENT))


def link(path: Path) -> None:
    elsewhere = path.parent.parent.parent / "elsewhere"
    elsewhere.write_bytes(CONTENT)
    path.unlink()
    path.symlink_to(elsewhere)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "zeros": (zero, "part/latents.npy holds other bytes than were copied"),
    "a hole": (hole, "part/latents.npy holds other bytes than were copied"),
    "cut": (lambda path: os.truncate(path, 4096), "part/latents.npy has 4,096 bytes instead of 28,672"),
    "gone": (Path.unlink, "part/latents.npy is gone"),
    "its folder gone": (lambda path: shutil.rmtree(path.parent), "part/latents.npy is gone"),
    "a link": (link, "part/latents.npy is no file"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_copy_is_made_again_and_this_is_said(
    name: str, copying: Copying, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, reason = DAMAGES[name]
    folder = copying()
    damage(folder / "part" / "latents.npy")
    assert (copying() / "part" / "latents.npy").read_bytes() == CONTENT
    assert copying.times == 2
    assert capsys.readouterr().err == f"{folder}: {reason}, so a store is copied again\n"


@pytest.mark.parametrize("index", [b"", bytes(64), b'{"part/latents.npy": 1}', b"[]"])
def test_a_copy_without_a_whole_index_is_made_again(index: bytes, copying: Copying) -> None:
    (copying() / copy_index.INDEX).write_bytes(index)  # as empty as those of before, or as a power cut left it
    copying()
    assert copying.times == 2


def test_a_copy_whose_filling_was_killed_is_made_anew(copying: Copying) -> None:
    stray = copying.cache / "name" / "part-of-a-killed-copy"
    stray.parent.mkdir(parents=True)
    stray.touch()
    assert not (copying() / stray.name).exists()


def test_what_a_killed_process_of_this_node_left_goes_and_that_of_another_stays(copying: Copying) -> None:
    copying.cache.mkdir(mode=0o700)
    for host in (socket.gethostname(), "elsewhere"):
        (copying.cache / f"name.{host}.1.partial").mkdir()
    copying()
    assert sorted(path.name for path in copying.cache.iterdir()) == ["name", "name.elsewhere.1.partial", "name.lock"]


def test_nodes_whose_locks_are_their_own_never_write_into_each_others_copy(tmp_path: Path) -> None:
    mapped: list[np.ndarray] = []

    def node(host: str, meanwhile: Callable[[], None]) -> Path:
        """Fill the cache as a node that sees no other's lock, while something else happens in the middle."""

        def fill(folder: Path) -> None:
            array = np.lib.format.open_memmap(folder / "latents.npy", mode="w+", dtype=np.float16, shape=(8,))
            meanwhile()
            array[:] = 1
            array.flush()

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("socket.gethostname", lambda: host)
            patched.setattr("fcntl.flock", lambda *_: None)
            return staged_once(str(tmp_path), "store", 1, "a store", fill)

    def other() -> None:
        mapped.append(np.load(node("two", lambda: None) / "latents.npy", mmap_mode="r"))

    folder = node("one", other)
    assert mapped[0].tolist() == [1.0] * 8  # neither zeros nor half a copy
    assert np.load(folder / "latents.npy").tolist() == [1.0] * 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "store.lock"]


def test_an_untouched_copy_is_not_read_and_one_of_before_a_boot_is(
    copying: Copying, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copying()
    read: list[str] = []
    sha256 = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: read.append(path) or sha256(path))  # type: ignore[func-returns-value]
    copying()
    copying()
    assert read == []
    noted = json.loads((folder / copy_index.CHECKED).read_text())
    (folder / copy_index.CHECKED).write_text(json.dumps(noted | {"boot": "another"}))
    copying()
    assert read == [str(folder / "part" / "latents.npy")]
    copying()
    assert len(read) == 1
    assert copying.times == 1


def test_a_power_cuts_zeros_under_the_old_times_are_seen_after_the_boot(copying: Copying) -> None:
    folder = copying()
    zero(folder / "part" / "latents.npy")
    standing = copy_index._standing(folder, ["part/latents.npy"])  # times and sizes tell nothing of them
    files.write_json(str(folder / copy_index.CHECKED), standing | {"boot": "another"})
    copying()
    assert copying.times == 2


def test_opening_a_copy_keeps_it_from_cleaners(copying: Copying) -> None:
    paths = [copying() / "part" / "latents.npy", copying() / copy_index.INDEX]
    for path in paths:
        os.utime(path, (0, 0))
    copying()
    assert all(path.stat().st_mtime > 0 and path.stat().st_atime > 0 for path in paths)


def test_a_new_cache_is_private_and_an_open_one_refused(tmp_path: Path, copying: Copying) -> None:
    folder = copying()
    for private in (folder, copying.cache):
        assert private.stat().st_mode & 0o777 == 0o700
    copying.cache.chmod(0o777)
    with pytest.raises(UserError, match=rf"^{copying.cache}: everybody may write to it, .*; run chmod 700 on it, or "):
        copying()
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=rf"^{file}: no folder, where copies are to be written; set --cache to a fold"):
        cache_folder(str(file))


def test_a_planted_link_is_not_followed(tmp_path: Path, copying: Copying, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "kept").touch()
    shutil.rmtree(copying())
    (copying.cache / "name").symlink_to(target)
    with pytest.raises(UserError, match=r"cache/name: a link, where copies are to be written; delete this link"):
        copying()
    assert [path.name for path in target.iterdir()] == ["kept"]
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    (tmp_path / f"diffusion-dpo-{os.getuid()}").symlink_to(target)
    with pytest.raises(UserError, match=r"diffusion-dpo-\d+: a link, where copies are to be written"):
        cache_folder(None)
