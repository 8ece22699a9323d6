"""Jobs on copies in processes of a cluster of the command's own: who computes what, and how each failure ends."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from infra.base import termination
from infra.base.errors import UserError
from pipelines.engine import in_process, on_ray, own_copies, ray_cluster
from pipelines.engine.jobs import Job, Step

CORES = 2.0


class Square:
    """Squares the column x; refuses a given value; -1: no step can be made."""

    made: ClassVar[list[Square]] = []

    def __init__(self, refuses: int | None = None) -> None:
        self.refuses = refuses
        self.made.append(self)

    def __call__(self, table: pa.Table) -> pa.Table:
        values = table["x"].to_pylist()
        if self.refuses == -1:
            raise NotImplementedError("no kernel")
        if self.refuses in values:
            raise UserError(f"{self.refuses} is refused")
        return pa.table({"x": values, "squared": [value**2 for value in values]})


class Ref:
    """What an actor was asked for, and computes when it is got."""

    def __init__(self, compute: Callable[[], pa.Table]) -> None:
        self.compute = compute


class Cluster:
    """Stands in for Ray: an actor is an object of this process, which computes when it is asked."""

    exceptions = ray.exceptions
    ObjectRef = object

    def __init__(self, dying: Sequence[int] = ()) -> None:
        self.begun: list[dict[str, Any]] = []
        self.at_once = 0
        self.most_at_once = 0
        self.dying = dying  # numbers of calls, from 0, in which Ray fails for good
        self.death: Exception = ray.exceptions.ActorDiedError()
        self.calls = 0
        self.ended = False
        self.is_alive = True

    def shutdown(self) -> None:
        self.ended = True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": CORES}

    def put(self, value: Any) -> Any:
        return value

    def remote(self, **settings: Any) -> Callable[[type], SimpleNamespace]:
        def make(kind: type) -> SimpleNamespace:
            def begin() -> SimpleNamespace:
                self.begun.append(settings)
                actor = kind()
                return SimpleNamespace(compute=SimpleNamespace(remote=lambda *given: self.asked(actor, given)))

            return SimpleNamespace(remote=begin)

        return make

    def asked(self, actor: Any, given: tuple[Any, ...]) -> Ref:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.calls += 1
        number = self.calls - 1
        return Ref(lambda: self.computed(actor, given, number))

    def computed(self, actor: Any, given: tuple[Any, ...], number: int) -> pa.Table:
        self.at_once -= 1
        if number in self.dying:
            raise self.death
        try:
            return actor.compute(*given)
        except Exception as error:
            raise ray.exceptions.RayTaskError("compute", "a traceback", error).as_instanceof_cause() from None

    def wait(self, refs: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return refs[-num_returns:], refs[:-num_returns]  # blocks may be ready in any order

    def get(self, ref: Ref) -> pa.Table:
        return ref.compute()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    Square.made.clear()
    stand_in = Cluster()
    monkeypatch.setattr(own_copies, "ray", stand_in)
    monkeypatch.setattr(ray_cluster._Own, "copies", [])
    monkeypatch.setattr(ray_cluster._Own, "started", True)
    monkeypatch.setattr(ray_cluster.ray, "shutdown", stand_in.shutdown)
    monkeypatch.setattr(ray_cluster, "own_is_alive", lambda: stand_in.is_alive)
    monkeypatch.setattr(in_process, "connect", lambda: None)
    return stand_in


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Return a job of ten numbers in blocks of two, on two copies."""
    pq.write_table(pa.table({"x": list(range(10))}), tmp_path / "numbers.parquet")
    return Job(
        source=[str(tmp_path / "numbers.parquet")],
        columns=["x"],
        steps=[Step(function=Square, batch_size=3, actors=2)],
        output=str(tmp_path / "out"),
        checkpoint=str(tmp_path / "done"),
        id_column="x",
        row_ids=lambda table: table["x"].to_numpy(),
        rows_per_block=2,
        name="numbers",
        rows=10,
    )


def written(job: Job) -> list[tuple[int, int]]:
    rows = [pq.ParquetFile(path).read() for path in Path(job.output).rglob("*.parquet")]
    table = pa.concat_tables(rows).sort_by("x")
    return list(zip(table["x"].to_pylist(), table["squared"].to_pylist(), strict=True))


def test_each_copy_computes_whole_blocks_one_at_a_time(cluster: Cluster, job: Job) -> None:
    own_copies.run(job)
    assert written(job) == [(value, value**2) for value in range(10)]
    assert (len(cluster.begun), cluster.most_at_once, cluster.calls) == (2, 2, 5)
    assert cluster.begun[0] == {"num_cpus": 0.25, "max_restarts": -1, "max_task_retries": 2}
    assert not cluster.ended
    assert len(Square.made) == 2  # a copy loads its model once, not at each block


def test_the_next_job_has_the_same_copies_with_its_own_steps(cluster: Cluster, job: Job, tmp_path: Path) -> None:
    own_copies.run(job)
    after = replace(job, output=str(tmp_path / "out2"), checkpoint=str(tmp_path / "done2"))
    own_copies.run(replace(after, steps=[Step(function=Square, actors=1)]))
    assert written(after) == written(job)
    assert (len(cluster.begun), len(Square.made)) == (2, 3)


def test_the_next_command_of_a_process_ends_the_copies(
    cluster: Cluster, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[Any] = []
    own_copies.run(job)
    begun = list(ray_cluster.own_copies())
    monkeypatch.setattr(ray_cluster.ray, "kill", ended.append)
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: True)
    ray_cluster.connect()
    assert len(cluster.begun) == 2
    assert ended == begun[::-1]
    assert ray_cluster.own_copies() == []


@pytest.fixture
def begins_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Mock], None]:
    """Return a function that has a command start a cluster of its own, with a stand-in for ray.init."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray_cluster._Own, "started", False)
    monkeypatch.setattr(ray_cluster.clusters, "named", lambda: None)
    monkeypatch.setattr(ray_cluster.ray, "is_initialized", lambda: False)

    def begin(init: Mock) -> None:
        monkeypatch.setattr(ray_cluster.ray, "init", init)
        ray_cluster.connect()

    return begin


def test_a_cluster_that_does_not_start_is_one_sentence(begins_ray: Callable[[Mock], None]) -> None:
    with pytest.raises(UserError, match=r"^Ray did not start on this machine \(The node timed out\.\); if other work"):
        begins_ray(Mock(side_effect=Exception("The node timed out.\nMore.")))


def test_sigterm_while_ray_starts_ends_with_143(begins_ray: Callable[[Mock], None]) -> None:
    def sent_sigterm(*_: object, **__: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray, which sets a handler of its own
        raise SystemExit(15)  # of that handler

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        begins_ray(Mock(side_effect=sent_sigterm))
    assert ended.value.code == termination.EXIT == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_finished_job_begins_no_copy(cluster: Cluster, job: Job) -> None:
    in_process.run(job)
    own_copies.run(job)
    assert cluster.begun == []


@pytest.mark.usefixtures("cluster")
def test_a_killed_job_goes_on_in_either_engine(job: Job) -> None:
    refusing = [Step(function=Square, arguments={"refuses": 7}, actors=1)]
    with pytest.raises(UserError, match=r"^7 is refused$"):
        own_copies.run(replace(job, steps=refusing))
    assert np.array_equal([x for x, _ in written(job)], range(6))
    in_process.run(job)
    assert written(job) == [(value, value**2) for value in range(10)]


def test_a_step_that_would_fail_again_is_one_sentence(
    cluster: Cluster, job: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"out: NotImplementedError: no kernel; it would come again"):
        own_copies.run(replace(job, steps=[Step(function=Square, arguments={"refuses": -1}, actors=1)]))
    assert cluster.ended
    assert "a traceback" in capsys.readouterr().err  # the copy's


@pytest.mark.parametrize(
    ("death", "sentence"),
    [
        (ray.exceptions.ActorDiedError(), "3 processes died one after another at the same block, usually for want of"),
        (ray.exceptions.OutOfMemoryError("96 %"), "3 processes died one after another at the same block, usually"),
        (
            ray.exceptions.OutOfDiskError("full"),
            "Ray's disk for what does not fit into memory is full (RAY_TMPDIR); make",
        ),
        (
            ray.exceptions.RaySystemError("Broken pipe"),
            "Ray failed on this machine (RaySystemError: System error: Broken pipe); the same command goes on",
        ),
    ],
    ids=["a copy", "for want of memory", "a full disk", "Ray"],
)
def test_what_ray_fails_of_is_one_sentence(cluster: Cluster, job: Job, death: Exception, sentence: str) -> None:
    cluster.dying = [0]
    cluster.death = death
    with pytest.raises(UserError) as refused:
        own_copies.run(job)
    assert str(refused.value).startswith(f"{job.output}: {sentence}")
    assert cluster.ended
    assert not ray_cluster.is_own()


def test_a_ray_that_ended_is_told_from_copies_that_died(cluster: Cluster, job: Job) -> None:
    """Ray raises the same in both cases; whether its process runs tells them apart."""
    cluster.dying = [0]
    cluster.is_alive = False
    with pytest.raises(
        UserError, match=r"out: Ray's own process on this machine ended, perhaps killed for want of memo"
    ):
        own_copies.run(job)
    assert cluster.ended


def test_ray_is_alive_while_its_process_runs(tmp_path: Path) -> None:
    """A killed process that nobody has waited for yet is still in the list of processes, and is not alive."""
    program = shutil.copy(str(shutil.which("sleep")), tmp_path / ray_cluster.RAYLET)
    assert not ray_cluster.own_is_alive()
    process = subprocess.Popen([program, "600"])
    try:
        assert ray_cluster.own_is_alive()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not ray_cluster.own_is_alive()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("is_alive", [True, False])
def test_a_process_leaves_with_its_own_cluster(
    is_alive: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_cluster, "LOOK_EVERY", 0.001)
    monkeypatch.setattr(ray_cluster, "is_own", lambda: True)
    left: queue.Queue[int] = queue.Queue()
    looks: queue.Queue[bool] = queue.Queue()

    def look() -> bool:
        looks.put(True)
        return is_alive

    monkeypatch.setattr(ray_cluster, "own_is_alive", look)
    monkeypatch.setattr(ray_cluster.os, "_exit", left.put)
    with ray_cluster.leaving_with_it(lambda: ("it ended", 7)):
        looks.get()
        looks.get()
        if not is_alive:
            assert left.get() == 7
    assert not is_alive or left.empty()
    assert ("it ended\n" in capsys.readouterr().err) == (not is_alive)


@pytest.mark.usefixtures("cluster")
def test_more_copies_than_the_cores_hold_are_refused(job: Job) -> None:
    with pytest.raises(UserError, match=r"^this job needs 2\.25 CPUs at once, this machine has 2: ask for fewer"):
        own_copies.run(replace(job, steps=[Step(function=Square, actors=9)]))


def test_what_needs_a_gpu_is_ray_data_s(cluster: Cluster, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Job] = []
    monkeypatch.setattr(on_ray, "run", ran.append)
    jobs = [
        replace(job, steps=[Step(function=Square, actors=1, gpus=0.5)]),
        replace(job, steps=[Step(function=Square, actors=1, accelerator="L4")]),
    ]
    for one in jobs:
        own_copies.run(one)
    assert ran == jobs
    assert cluster.begun == []
