"""What is said of a job's pace, and what its watch does when the source, the disk or the job is not as it should be."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.trained_models import Killed

from infra.base import files, tables
from infra.base.errors import UserError
from pipelines.engine import on_ray, progress
from pipelines.engine.jobs import Job


def test_the_pace_is_of_this_run_s_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,200 of 3,000 rows are safe, 600 of them written in the last 60 s: ten a second, three minutes left."""
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 100.0))
    job = Job(
        source=[],
        columns=[],
        steps=[],
        output="",
        checkpoint="",
        id_column="id",
        row_ids=lambda _: NotImplemented,
        rows_per_block=1,
        name="pairs",
        rows=3000,
    )
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
    job = Job(
        source=[],
        columns=[],
        steps=[],
        output=str(tmp_path / "out"),
        checkpoint=str(checkpoint),
        id_column="x",
        row_ids=lambda table: table["x"],
        rows_per_block=2,
        name="rows",
        rows=3,
        may_go_on=ask,
    )
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


@pytest.mark.parametrize("error", [OSError("no answer"), tables.UnreadableError("a file half written")])
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

    clock = itertools.count(0.0, 0.03)  # seconds, at each look at it: four looks until patience ends on any machine
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(progress.os, "_exit", end)
    job = Job(
        source=[],
        columns=[],
        steps=[],
        output=str(tmp_path / "out"),
        checkpoint=str(tmp_path / "none"),
        id_column="x",
        row_ids=lambda table: table["x"],
        rows_per_block=2,
        name="rows",
        rows=3,
    )
    with progress.watch(job, lambda _: "nothing moves", interval=0.01, remark=0.0, patience=0.1):
        assert done.wait(30)
    told = capsys.readouterr().out
    assert ended == [3]
    assert "\nnothing moves\n" in told
    assert "error: nothing moves; run the same command again when they are free" in told


STATES: dict[
    str, tuple[str, str, str, bool]
] = {  # what a kill can leave of a block: its marks, its rows; and whether it counts as written
    "rows of a worker that outlived its job": ("", "", "rows", False),
    "killed before the mark was renamed": ("pending", "", "rows", False),
    "killed before the rows were written": ("pending", "", "", False),
    "killed in the middle of writing": ("pending", "", "cut", False),
    "a worker that outlived its job, killed in the middle": ("", "", "cut", False),
    "killed between copy and deletion, as S3 renames": ("pending", "committed", "rows", True),
    "written again by Ray when it was whole, and killed in the middle": ("pending", "committed", "cut", False),
    "a mark whose rows are gone": ("", "committed", "", False),
    "a mark whose rows were cut": ("", "committed", "cut", False),
    "finished": ("", "committed", "rows", True),
}


def leave(folder: str, block: str, ids: list[int], pending: str, committed: str, rows: str) -> None:
    """Write a block's marks and rows, in two partitions, as a kill left them."""
    table = pa.table({"id": ids})
    for mark, name in ((pending, f"{block}.pending.parquet"), (committed, f"{block}.parquet")):
        if mark:
            files.write_table(f"{folder}/done/{name}", table)
    for status, part in (("kept", table[:2]), ("tie", table[2:])):
        path = f"{folder}/out/status={status}/{block}-0.parquet"
        if rows:
            files.write_table(path, part)
        if rows == "cut":
            files.write_bytes(path, files.read_bytes(path)[:-4])


def found_ids(folder: str) -> list[int]:
    tables = [pq.read_table(pa.BufferReader(files.read_bytes(path))) for path in files.list_files(f"{folder}/out")]
    return sorted(key for table in tables for key in table["id"].to_pylist())


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("place", ["disk", "bucket"])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.slow
def test_whatever_a_kill_left_the_rows_that_count_are_the_rows_that_are_there(
    state: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """A block of ids 1, 2, 3 and a finished one of 4, 5, 6; the clearing itself is killed too, ever later."""
    root = str(tmp_path) if place == "disk" else f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    pending, committed, rows, whole = STATES[state]
    remove = files.remove

    def begin(folder: str, deletions: int) -> bool:
        """Begin the job, which is killed after so many deletions or where it would read; say if it came so far."""
        told = itertools.count()

        def kill(path: str, below: str) -> None:
            if next(told) == deletions:
                raise Killed
            remove(path, below)

        def read(*_: object, **__: object) -> None:
            raise EOFError

        monkeypatch.setattr(progress.files, "remove", kill)
        monkeypatch.setattr(on_ray.ray.data, "read_datasource", read)
        job = Job(
            source=[folder],
            columns=[],
            steps=[],
            output=f"{folder}/out",
            checkpoint=f"{folder}/done",
            id_column="id",
            row_ids=lambda table: table["id"],
            rows_per_block=3,
            name="rows",
            rows=6,
        )
        with pytest.raises((Killed, EOFError)) as ended:
            on_ray._build(job)
        done = progress.done_ids(job).tolist()
        if ended.type is EOFError:
            assert sorted(done) == found_ids(folder) == ([1, 2, 3] if whole else []) + [4, 5, 6]
            assert files.list_files(job.checkpoint, ".pending.parquet") == []
        return ended.type is EOFError

    for deletions in itertools.count():
        folder = f"{root}/{deletions}"
        leave(folder, "run_1_000001", [1, 2, 3], pending, committed, rows)
        leave(folder, "run_1_000002", [4, 5, 6], "", "committed", "rows")
        if begin(folder, deletions):
            break
        assert begin(folder, 99)
    assert deletions <= 4  # two files and two marks


def test_what_a_repair_holds_as_done_stays_though_its_mark_names_no_block(tmp_path: Path) -> None:
    leave(str(tmp_path), "run_1_000001", [1, 2, 3], "", "", "rows")
    leave(str(tmp_path), "run_1_000002", [4, 5, 6], "", "", "rows")
    files.write_table(f"{tmp_path}/done/kept.parquet", pa.table({"id": [1, 2, 3]}))
    job = Job(
        source=[],
        columns=[],
        steps=[],
        output=f"{tmp_path}/out",
        checkpoint=f"{tmp_path}/done",
        id_column="id",
        row_ids=lambda table: table["id"],
        rows_per_block=3,
        name="rows",
        rows=6,
    )
    progress.clear_unfinished(job)
    assert found_ids(str(tmp_path)) == [1, 2, 3]


def test_rows_that_another_block_has_by_now_are_not_there_twice(tmp_path: Path) -> None:
    leave(str(tmp_path), "run_1_000001", [1, 2, 3], "", "", "rows")  # by a worker of a killed job, after it was cleared
    leave(str(tmp_path), "run_2_000001", [1, 2, 3], "", "committed", "rows")
    job = Job(
        source=[],
        columns=[],
        steps=[],
        output=f"{tmp_path}/out",
        checkpoint=f"{tmp_path}/done",
        id_column="id",
        row_ids=lambda table: table["id"],
        rows_per_block=3,
        name="rows",
        rows=3,
    )
    progress.clear_unfinished(job)
    assert found_ids(str(tmp_path)) == [1, 2, 3]


def test_a_mark_that_a_living_worker_renames_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(str(tmp_path), "run_1_000001", [1, 2, 3], "pending", "", "rows")
    remove, done = files.remove, tmp_path / "done"

    def rename(path: str, below: str) -> None:
        if path.endswith(progress.PENDING):
            (done / "run_1_000001.pending.parquet").rename(done / "run_1_000001.parquet")
        remove(path, below)

    monkeypatch.setattr(progress.files, "remove", rename)
    job = Job(
        source=[],
        columns=[],
        steps=[],
        output=f"{tmp_path}/out",
        checkpoint=f"{tmp_path}/done",
        id_column="id",
        row_ids=lambda table: table["id"],
        rows_per_block=3,
        name="rows",
        rows=3,
    )
    progress.clear_unfinished(job)
    assert progress.done_ids(job).tolist() == found_ids(str(tmp_path)) == []


def test_rows_without_any_record_are_refused_and_stay(tmp_path: Path) -> None:
    leave(str(tmp_path), "part", [1, 2, 3], "", "", "rows")
    job = Job(
        source=[],
        columns=[],
        steps=[],
        output=f"{tmp_path}/out",
        checkpoint=f"{tmp_path}/done",
        id_column="id",
        row_ids=lambda table: table["id"],
        rows_per_block=3,
        name="rows",
        rows=3,
    )
    with pytest.raises(UserError, match=f"^{tmp_path}/out: holds rows of which {tmp_path}/done has no record; delete"):
        progress.clear_unfinished(job)
    assert found_ids(str(tmp_path)) == [1, 2, 3]


def test_ray_deletes_nothing_of_a_block_that_counts_as_written(tmp_path: Path) -> None:
    leave(str(tmp_path), "run_1_000001", [1, 2, 3], "pending", "committed", "rows")
    config = on_ray.CheckpointConfig(id_column="id", checkpoint_path=f"{tmp_path}/done")
    manager = on_ray._NoFilter(checkpoint_config=config, data_context=on_ray.DataContext.get_current())
    assert manager.load_checkpoint(f"{tmp_path}/out") == (None, 0)
    assert found_ids(str(tmp_path)) == [1, 2, 3]


def test_ids_are_looked_up_among_those_that_are_done() -> None:
    done = np.array([2, 5, 9])
    assert progress.are_among(np.array([9, 1, 2, 10, 5]), done).tolist() == [True, False, True, False, True]
    assert progress.are_among(np.array([3, 1]), np.empty(0, np.int64)).tolist() == [False, False]


def test_blocks_of_foreign_or_doubled_rows_are_forgotten(tmp_path: Path) -> None:
    for name, ids in {"a": [1, 2], "b": [2, 3], "c": [3, 9], "d": [4], "kept": [5]}.items():
        files.write_table(f"{tmp_path}/done/{name}.parquet", pa.table({"id": ids}))
    progress.forget_blocks(f"{tmp_path}/done", "id", np.array([1, 2, 3, 4, 5]))
    # b has 2 a second time, c has 9, which no source has; 3 is then to be computed again
    assert [Path(path).stem for path in progress.committed(f"{tmp_path}/done")] == ["a", "d", "kept"]
