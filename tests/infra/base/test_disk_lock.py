"""Locks on a disk: one holder, whoever deletes or owns the file, with and without flock."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from infra.base import disk_lock
from infra.base.disk_lock import HeldError, held
from infra.base.errors import UserError


@pytest.fixture(params=["flock", *disk_lock.WITHOUT_FLOCK])
def lock(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a lock file's path, on a disk with flock or on one whose flock fails so."""
    if request.param != "flock":

        def refuse(*_: Any) -> None:
            raise OSError(request.param, os.strerror(request.param))

        monkeypatch.setattr(fcntl, "flock", refuse)
    return str(tmp_path / ".lock")


@pytest.mark.chaos
def test_one_process_holds_a_lock_and_the_next_has_it_afterwards(lock: str) -> None:
    for _ in range(2):
        with held(lock), pytest.raises(HeldError, match=rf"process {os.getpid()} on .*, for \d+ s"), held(lock):
            pass


@pytest.mark.chaos
def test_a_lock_whose_file_was_deleted_is_not_taken_for_the_new_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".lock"
    flock = fcntl.flock
    deletions = [1]

    def deleted_before(descriptor: int, operation: int) -> None:
        if deletions:
            deletions.pop()
            path.unlink()  # between opening and locking
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", deleted_before)
    with held(str(path)), pytest.raises(HeldError), held(str(path)):
        pass
    assert not deletions


@pytest.mark.chaos
def test_a_holder_whose_file_is_deleted_takes_the_lock_again_or_hears_who_has_it(lock: str) -> None:
    def delete() -> None:
        for path in Path(lock).parent.iterdir():
            path.unlink()

    with held(lock) as check:
        check()
        delete()
        check()
        with pytest.raises(HeldError), held(lock):
            pass
        delete()
        with held(lock), pytest.raises(HeldError, match=f"process {os.getpid()}"):
            check()
    with held(lock):
        pass


@pytest.mark.chaos
def test_a_waiting_job_says_for_whom(lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_lock, "SAY_AFTER", 0.0)
    said: list[str] = []
    told = threading.Event()
    taken = threading.Event()

    def say(line: str, **_: Any) -> None:
        said.append(line)
        told.set()

    monkeypatch.setattr(disk_lock, "print", say, raising=False)

    def wait() -> None:
        with held(lock, wait=True):
            taken.set()

    with held(lock):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert told.wait(60)
        assert not taken.is_set()
    waiting.join(60)
    assert taken.is_set()
    assert len(said) == 1
    assert re.match(rf"{lock}: waiting for process {os.getpid()} on \S+, for \d+ s", said[0])


@pytest.mark.chaos
def test_a_colleagues_lock_file_is_locked_though_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".lock"
    path.touch()
    opened = os.open

    def refuse_writing(name: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        return opened(name, flags, mode)

    monkeypatch.setattr(os, "open", refuse_writing)
    with held(str(path)), pytest.raises(HeldError, match="another process, for "), held(str(path)):
        pass
    path.unlink()
    with pytest.raises(UserError, match=rf"^{path}: no lock can be taken there \(Permission denied\); give a folder"):
        held(str(path)).__enter__()


@pytest.mark.chaos
def test_a_lock_is_not_followed_through_a_link(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("kept")
    path = tmp_path / ".lock"
    path.symlink_to(theirs)
    with pytest.raises(UserError, match=r"\(it is a link\)"):
        held(str(path)).__enter__()
    assert theirs.read_text() == "kept"
