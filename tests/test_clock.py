"""Nothing depends on what time it is: a clock that jumps changes no result, lock, cache or run."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from infra.base import files, node_cache
from infra.base.files import ROOT
from infra.local import cluster
from training.data.staging import stage

pytestmark = pytest.mark.chaos
WALL = {"time.time", "time.time_ns", "time.localtime", "time.gmtime", "time.strftime", "time.ctime"}
WALL_METHODS = {"now", "utcnow", "today", "fromtimestamp"}
LAST = WALL_METHODS | {name.removeprefix("time.") for name in WALL}
RECORDED_ONLY = {  # a time that people read; nothing is decided by it
    "pipelines/arena_app/arena_votes.py",  # when a vote was cast
    "infra/pages/made.py",  # when a page was made
    "training/run/tracker_clients.py",  # when MLflow was told a number
    "infra/base/disk_lock.py",  # how long the holder of a lock has had it, in a waiting job's message
}
SOURCES = sorted(p for folder in ("pipelines", "training", "labelers", "infra") for p in (ROOT / folder).rglob("*.py"))


def looks_at_the_clock(text: str) -> bool:
    """Say whether code asks for the time of day."""
    attributes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
    names = [ast.unparse(node) for node in attributes if node.attr in LAST]
    return any(name in WALL or ("date" in name and name.split(".")[-1] in WALL_METHODS) for name in names)


def test_the_look_up_can_fail() -> None:
    assert looks_at_the_clock("import time\nx = time.time()")
    assert looks_at_the_clock("import datetime\nx = datetime.datetime.now()")
    assert not looks_at_the_clock("import time\nx = time.monotonic()")


def test_code_asks_how_long_and_never_what_time_it_is() -> None:
    looking = [path for path in SOURCES if looks_at_the_clock(path.read_text()) and "benchmarks" not in path.parts]
    assert {str(path.relative_to(ROOT)) for path in looking} - RECORDED_ONLY == set()


def set_back(folder: Path, years: float) -> None:
    """Let all files look as if they were written years from now, or before."""
    for path in folder.rglob("*"):
        os.utime(path, (psutil.boot_time() + years * 3e7,) * 2)


@pytest.mark.parametrize("years", [-20.0, 20.0])
def test_a_staged_copy_is_taken_or_made_whatever_its_files_times(
    years: float, copied_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stage(str(copied_store), str(tmp_path / "cache"))
    set_back(copied_store, years)
    set_back(tmp_path / "cache", -years)
    monkeypatch.setattr(node_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))  # nothing may be copied
    again = stage(str(copied_store), str(tmp_path / "cache"))
    assert (again.pair_ids == first.pair_ids).all()
    every = np.arange(len(first.pair_ids))
    assert (again.latents.begin(every)()["latents_1"] == first.latents.begin(every)()["latents_1"]).all()


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_a_cluster_is_known_by_its_process_after_the_clock_was_set(
    jump: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, note = psutil.Process(), tmp_path / "cluster.json"
    files.write_json(str(note), cluster.identity(own))
    boot, created = psutil.boot_time(), own.create_time()
    # Setting the clock moves the time of boot, and with it what every process is said to have started at.
    monkeypatch.setattr(psutil, "boot_time", lambda: boot + jump)
    monkeypatch.setattr(psutil.Process, "create_time", lambda _: created + jump)
    assert cluster.recorded(note) == own
