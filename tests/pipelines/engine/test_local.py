"""Jobs run in this process: blocks, batches, marks, resume, partitions, threads, requests to end, full disks."""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.base import termination
from infra.base.errors import UserError
from pipelines.engine import failures, in_process, progress
from pipelines.engine.jobs import Job, Step

pytestmark = pytest.mark.usefixtures("keys")


class Square:
    """Squares the column x; dies at the batch that holds a given value."""

    seen: ClassVar[list[list[int]]] = []

    def __init__(self, dies_at: int | None = None, with_error: Exception | None = None) -> None:
        self.dies_at = dies_at
        self.error = with_error or RuntimeError("lost connection")

    def __call__(self, table: pa.Table) -> pa.Table:
        values = table["x"].to_pylist()
        if self.dies_at in values:
            raise self.error
        self.seen.append(values)
        return pa.table({"x": values, "squared": [value**2 for value in values]})


class Parity:
    """Says of each x whether it is odd."""

    def __call__(self, table: pa.Table) -> pa.Table:
        return table.append_column("odd", pa.array([str(value % 2) for value in table["x"].to_pylist()]))


class Evens:
    """Keeps the even rows only."""

    def __call__(self, table: pa.Table) -> pa.Table:
        return table.filter(pa.array([value % 2 == 0 for value in table["x"].to_pylist()]))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Return a job of ten numbers from two files, in blocks of four and batches of three."""
    Square.seen = []
    for name, numbers in (("a", range(6)), ("b", range(6, 10))):
        pq.write_table(pa.table({"x": list(numbers), "unused": list(numbers)}), tmp_path / f"{name}.parquet")
    return Job(
        source=[str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")],
        columns=["x"],
        steps=[Step(function=Square, batch_size=3)],
        output=str(tmp_path / "out"),
        checkpoint=str(tmp_path / "done"),
        id_column="x",
        row_ids=lambda table: table["x"].to_numpy(),
        rows_per_block=4,
        name="numbers",
        rows=10,
    )


def written(job: Job, below: str = "") -> list[Any]:
    paths = (Path(job.output) / below).rglob("*.parquet")
    return sorted((pq.ParquetFile(path).read().to_pydict() for path in paths), key=lambda part: part["x"])


def dies_at(value: int, error: Exception | None = None) -> list[Step]:
    return [Step(function=Square, arguments={"dies_at": value, "with_error": error}, batch_size=3)]


def test_blocks_of_four_in_batches_of_three(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    in_process.run(job)
    assert Square.seen == [[0, 1, 2], [3], [4, 5, 6], [7], [8, 9]]
    assert [part["x"] for part in written(job)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert np.array_equal(written(job)[1]["squared"], [16, 25, 36, 49])
    assert capsys.readouterr().out == "numbers: 10 of 10 written\n"


def test_each_block_has_its_mark(job: Job) -> None:
    in_process.run(job)
    marks = {path.name.removesuffix(".parquet"): pq.read_table(path) for path in Path(job.checkpoint).iterdir()}
    for path in Path(job.output).iterdir():
        assert pq.read_table(path).select(["x"]) == marks.pop(path.name.removesuffix("-0.parquet"))
    assert marks == {}
    assert progress.finished_rows(job.checkpoint) == 10


def test_a_killed_run_goes_on_after_its_last_block_and_a_finished_one_does_nothing(job: Job) -> None:
    with pytest.raises(RuntimeError):
        in_process.run(replace(job, steps=dies_at(7)))
    assert [part["x"] for part in written(job)] == [[0, 1, 2, 3]]
    Square.seen = []
    in_process.run(job)
    assert Square.seen == [[4, 5, 6], [7], [8, 9]]
    assert [part["x"] for part in written(job)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    in_process.run(replace(job, steps=dies_at(0)))  # no step is even made
    assert len(Square.seen) == 3


@pytest.mark.parametrize("killed_at", ["mark", "file", "rename"])
def test_a_kill_in_the_middle_of_a_block_costs_this_block_alone(
    job: Job, killed_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = in_process._write_file
    calls: list[str] = []

    def dying(path: str, table: pa.Table, *options: Any) -> None:
        calls.append(path)  # mark and file of the first block, then of the second
        if len(calls) > {"mark": 2, "file": 3, "rename": 4}[killed_at]:
            Path(path).write_bytes(b"PAR1 cut off")
            raise KeyboardInterrupt
        write(path, table, *options)

    with monkeypatch.context() as patched:
        patched.setattr(in_process, "_write_file", dying)
        if killed_at == "rename":
            patched.setattr(in_process, "_settle", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            in_process.run(job)
    in_process.run(job)
    assert [part["x"] for part in written(job)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert not [path for path in Path(job.checkpoint).iterdir() if path.name.endswith(progress.PENDING)]


def test_rows_are_parted_by_a_column_whose_value_names_the_folder(job: Job) -> None:
    in_process.run(replace(job, steps=[Step(function=Parity)], partition_by="odd"))
    assert [part["x"] for part in written(job, "odd=0")] == [[0, 2], [4, 6], [8]]
    assert [part["x"] for part in written(job, "odd=1")] == [[1, 3], [5, 7], [9]]
    assert written(job, "odd=0")[0].keys() == {"x"}  # the folder says the rest
    in_process.run(replace(job, steps=dies_at(0), partition_by="odd"))


def test_rows_that_a_step_drops_are_not_written(job: Job) -> None:
    steps = [Step(function=Evens, batch_size=2), Step(function=Square, batch_size=3, actors=1)]
    in_process.run(replace(job, steps=steps))
    assert Square.seen == [[0, 2], [4, 6], [8]]  # 3 would fit, but a batch ends with its block
    assert progress.finished_rows(job.checkpoint) == 5


def test_cheap_steps_run_ahead_in_order_and_not_far(job: Job) -> None:
    asked: list[int] = []

    def read(*_: object) -> Iterator[pa.Table]:
        for number in range(100):
            asked.append(number)
            yield pa.table({"x": [number]})

    steps = [Step(function=Parity, batch_size=1, tasks=2), Step(function=Square, batch_size=1, actors=1)]
    steps[1] = replace(steps[1], arguments={"dies_at": 20, "with_error": UserError("enough")})
    with pytest.raises(UserError, match=r"^enough$"):
        in_process.run(replace(job, source=["one"], read=read, steps=steps, rows_per_block=1))
    assert Square.seen == [[number] for number in range(20)]
    assert len(asked) <= 20 + 2 + 3  # threads, and what is about to be handed to them


def test_a_source_is_read_piece_by_piece(job: Job) -> None:
    most: list[int] = []

    def read(*_: object) -> Iterator[pa.Table]:
        for start in range(0, 1000, 10):
            most.append(start - sum(len(batch) for batch in Square.seen))
            yield pa.table({"x": range(start, start + 10)})

    in_process.run(replace(job, source=["one"], read=read, rows=1000))
    assert max(most) < 10 + 4  # a piece and a block
    assert progress.finished_rows(job.checkpoint) == 1000


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_ctrl_c_end_after_the_block_under_way(
    sent: signal.Signals, job: Job, capfd: pytest.CaptureFixture[str]
) -> None:
    class Terminated(Square):
        def __call__(self, table: pa.Table) -> pa.Table:
            if 4 in table["x"].to_pylist():
                os.kill(os.getpid(), sent)
            return super().__call__(table)

    before = signal.getsignal(sent)
    with pytest.raises(SystemExit) as ended:
        in_process.run(replace(job, steps=[Step(function=Terminated, batch_size=3)]))
    assert ended.value.code == termination.EXIT == 143
    assert signal.getsignal(sent) is before
    told = f"{job.output}: stopped on request; the same command goes on from what is written\n"
    at_once = "stopping after the work in hand; Ctrl-C again ends at once\n" if sent == signal.SIGINT else ""
    assert capfd.readouterr().err == at_once + told
    assert [part["x"] for part in written(job)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    in_process.run(job)
    assert [part["x"] for part in written(job)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_full_disk_is_one_sentence_and_loses_nothing(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    write = in_process._write_file

    def full(path: str, table: pa.Table, *options: Any) -> None:
        if 8 in table["x"].to_pylist():
            raise OSError(errno.ENOSPC, "No space left on device", path)
        write(path, table, *options)

    with monkeypatch.context() as patched:
        patched.setattr(in_process, "_write_file", full)
        told = f"^{re.escape(job.output)}: could not be written .No space left on device.; make room, then the same"
        with pytest.raises(UserError, match=told):
            in_process.run(job)
    in_process.run(job)
    assert [part["x"] for part in written(job)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_an_error_that_would_come_again_is_one_sentence(job: Job) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(job.output)}: ValueError: bad; it would come again"):
        in_process.run(replace(job, steps=dies_at(0, ValueError("bad"))))


def test_a_job_asks_now_and_then_whether_it_may_go_on(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def no() -> None:
        raise UserError("too many bad rows")

    monkeypatch.setattr(progress.Count.__init__, "__defaults__", (0.0,))
    with pytest.raises(UserError, match=r"^too many bad rows$"):
        in_process.run(replace(job, may_go_on=no))
    assert [part["x"] for part in written(job)] == [[0, 1, 2, 3]]


def test_the_rate_and_what_is_left_are_said(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    count = progress.Count(replace(job, rows=1000), 400)
    for now, rows in ((300, 4), (303, 3), (360, 53)):  # five minutes' start is not counted; then 56 in a minute
        seconds[0] = now
        count.add(rows)
    count.end()
    assert capsys.readouterr().out.splitlines() == [
        "numbers: 404 of 1,000 written",
        "numbers: 460 of 1,000 written, 0.933 a second, 10 min left",  # 540 / 0.933 = 579 s
    ]


def test_a_second_ctrl_c_ends_at_once(job: Job) -> None:
    class Interrupted(Square):
        def __call__(self, table: pa.Table) -> pa.Table:
            for _ in range(2 if 4 in table["x"].to_pylist() else 0):
                signal.raise_signal(signal.SIGINT)
            return super().__call__(table)

    with pytest.raises(KeyboardInterrupt):
        in_process.run(replace(job, steps=[Step(function=Interrupted, batch_size=3)]))
    assert [part["x"] for part in written(job)] == [[0, 1, 2, 3]]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_stays_ignored_where_a_shell_says_so() -> None:
    """As of a command in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with termination.listening():
            signal.raise_signal(signal.SIGINT)
            assert not termination.is_asked()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_only_finished_rows_are_read_is_not_forgotten(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    in_process.run(job)
    read_from: list[int] = []

    def read(*_: object) -> Iterator[pa.Table]:
        for start in (0, 5):
            read_from.append(start)
            if start == 0:
                signal.raise_signal(signal.SIGINT)
            yield pa.table({"x": range(start, start + 5)})

    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        in_process.run(replace(job, source=["one"], read=read))
    assert ended.value.code == termination.EXIT
    assert capfd.readouterr().err.endswith(f"{job.output}: stopped on request; {failures.AGAIN}\n")
    assert read_from == [0]  # the second piece stays unread


def test_a_request_that_nobody_acted_on_ends_the_next_job(job: Job) -> None:
    with termination.listening():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), termination.listening():
        signal.raise_signal(signal.SIGINT)  # the second one
    with pytest.raises(SystemExit) as ended:
        in_process.run(job)
    assert ended.value.code == termination.EXIT
    assert written(job) == []
    in_process.run(job)
    assert progress.finished_rows(job.checkpoint) == 10
