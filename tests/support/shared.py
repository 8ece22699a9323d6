"""Folders that the processes of one test run share: the first that needs one makes it, the others wait for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared_folder(temporary: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder of this test run, made once by whichever process asks first; nobody may change it afterwards.

    Args:
        temporary: pytest's factory of temporary folders.
        name: of the folder, one for each content.
        make: writes the folder, which does not exist yet.
    """
    base = temporary.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each process has a folder of its own below the run's
    folder = base / "shared" / name
    finished = folder.with_name(f"{name}.finished")
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_name(f"{name}.lock")):
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed halfway
            make(folder)
            finished.touch()
    return folder
