"""Ray's files of a command: in a folder of its own, which stays while it runs and goes with a later one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from infra.base.files import ROOT
from pipelines.engine import ray_folder

MAKE = "from pipelines.engine import ray_folder; print(ray_folder.make(), flush=True); input()"


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setenv("RAY_TMPDIR", short)
        yield Path(short)


def made() -> Path:
    folder = ray_folder.make()
    assert folder is not None
    return Path(folder)


def folders(base: Path) -> list[str]:
    return sorted(path.name for path in base.iterdir())


def test_a_folder_of_a_killed_command_goes_and_one_of_a_running_command_stays(base: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", MAKE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    theirs = Path(other.stdout.readline().decode().strip()).parent
    (theirs / "r" / "spilled").mkdir(parents=True)
    ours = made().parent
    assert folders(base) == sorted([theirs.name, ours.name])
    other.kill()
    other.communicate()
    assert (theirs / "r" / "spilled").is_dir()
    after = made().parent
    assert folders(base) == sorted([ours.name, after.name])


def test_what_could_not_be_removed_at_once_goes_later(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = base / f"{ray_folder.PREFIX}ended"
    (ended / ray_folder.RAY).mkdir(parents=True)
    (ended / ray_folder.LOCK).touch()
    with monkeypatch.context() as patched:
        patched.setattr("os.rmdir", Mock(side_effect=OSError("not empty: a worker still writes there")))
        made()
    assert sorted(path.name for path in ended.iterdir()) == [ray_folder.LOCK, ray_folder.RAY]
    made()
    assert not ended.exists()


def test_a_base_that_is_not_there_is_made_as_ray_does(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(base / "new"))
    assert made().parent.parent == base / "new"


def test_a_folder_is_its_user_s_alone(base: Path) -> None:
    folder = made()
    assert folder.parent.parent == base
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_the_path_of_a_socket_fits_or_ray_takes_its_own_folder(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = "/session_2026-11-30_22-01-22_123456_4194304/sockets/plasma_store"
    long = base / "".ljust(ray_folder.LONGEST - len(str(base)) - 1, "a")
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    assert len(f"{made()}{socket}") == 24 + 19 + 64 == 107
    monkeypatch.setenv("RAY_TMPDIR", f"{long}a")
    assert ray_folder.make() is None


def test_links_and_what_has_no_lock_are_left_alone(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / ray_folder.LOCK).touch()
    os.symlink(elsewhere, base / f"{ray_folder.PREFIX}link")
    (base / f"{ray_folder.PREFIX}begun").mkdir()
    (base / "dpo-other").mkdir()
    ray_folder.make()
    assert {"dpo-ray-link", "dpo-ray-begun", "dpo-other"} < set(folders(base))
    assert (elsewhere / ray_folder.LOCK).is_file()
