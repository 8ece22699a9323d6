"""What is said of a job's pace, and what its watch does when the source, the disk or the job is not as it should be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import UserError
from pipelines import progress
from pipelines.jobs import Job


def test_the_pace_is_of_this_run_s_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,200 of 3,000 rows are safe, 600 of them written in the last 60 s: ten a second, three minutes left."""
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 100.0))
    job = Job([], [], [], "", "", "id", lambda _: NotImplemented, 1, "pairs", 3000)
    assert progress.pace(job, 1200, 600, 40.0) == ", 10 a second, 3 min left"
    assert progress.pace(job, 3000, 600, 40.0) == ", 10 a second"
    assert progress.pace(job, 600, 0, 100.0) == ""


def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_go_on: Callable[[], None]) -> list[int]:
    """Watch a job of three rows, two of them written, until the process is ended or the next look; its exit codes."""
    checkpoint, ended, looked = tmp_path / "done", list[int](), threading.Event()
    checkpoint.mkdir()
    pq.write_table(pa.table({"x": [1, 2]}), checkpoint / "part.parquet")

    def end(code: int) -> None:
        ended.append(code)
        looked.set()
        raise SystemExit  # of the watching thread alone

    def ask() -> None:
        try:
            may_go_on()
        finally:
            asked.append(1)
            if len(asked) == 2:
                looked.set()

    asked: list[int] = []
    monkeypatch.setattr(progress.os, "_exit", end)
    job = Job([], [], [], str(tmp_path / "out"), str(checkpoint), "x", lambda table: table["x"], 2, "rows", 3,
              may_go_on=ask)  # fmt: skip
    with progress.watch(job, lambda idle: f"idle for {idle}", interval=0.01):
        assert looked.wait(30)
    return ended


def test_a_job_that_may_not_go_on_ends_with_the_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise UserError("too many bad rows")

    assert watched(tmp_path, monkeypatch, refuse) == [2]
    assert "error: too many bad rows" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError("no answer"), pa.ArrowInvalid("a file half written")])
def test_what_cannot_be_read_yet_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def unreadable() -> None:
        raise error

    assert watched(tmp_path, monkeypatch, unreadable) == []


def test_a_job_that_stands_still_is_remarked_on_and_then_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended, done = list[int](), threading.Event()

    def end(code: int) -> None:
        ended.append(code)
        done.set()
        raise SystemExit

    monkeypatch.setattr(progress.os, "_exit", end)
    job = Job([], [], [], str(tmp_path / "out"), str(tmp_path / "none"), "x", lambda table: table["x"], 2, "rows", 3)
    with progress.watch(job, lambda _: "nothing moves", interval=0.01, remark=0.0, patience=0.1):
        assert done.wait(30)
    told = capsys.readouterr().out
    assert ended == [3]
    assert "\nnothing moves\n" in told
    assert "error: nothing moves; run the same command again when they are free" in told
