"""What the engine asks of Ray for a step, and what it says of a job's pace; no cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_pairs
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from infra.errors import UserError
from pipelines import encode_latents, encoders, engine
from pipelines.encode_latents import EncodeConfig
from pipelines.engine import Job, Step
from pipelines.safety import Filter


def test_copies_begin_at_the_least_and_tasks_have_a_bound() -> None:
    copies = engine._compute(Step(dict, actors=4, least=2))
    assert isinstance(copies, ActorPoolStrategy)
    assert (copies.min_size, copies.max_size) == (2, 4)
    for least in (None, 4):
        fixed = engine._compute(Step(dict, actors=4, least=least))
        assert isinstance(fixed, ActorPoolStrategy)
        assert (fixed.min_size, fixed.max_size) == (4, 4)
    bounded, free = engine._compute(Step(dict, tasks=3)), engine._compute(Step(dict))
    assert isinstance(bounded, TaskPoolStrategy)
    assert isinstance(free, TaskPoolStrategy)
    assert (bounded.size, free.size) == (3, None)


def test_a_cluster_must_hold_the_least_not_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores: listing takes one, copies of a half each leave room for two."""
    monkeypatch.setattr(engine, "ray", SimpleNamespace(cluster_resources=lambda: {"CPU": 2.0}))
    engine._check_resources([Step(dict, actors=9, least=2, cpus=0.5)])
    with pytest.raises(UserError, match=r"needs 2\.5 CPUs"):
        engine._check_resources([Step(dict, actors=9, least=3, cpus=0.5)])
    with pytest.raises(UserError, match=r"needs 5\.5 CPUs"):
        engine._check_resources([Step(dict, actors=9, cpus=0.5)])
    with pytest.raises(UserError, match=r"needs 2\.5 CPUs"):
        engine._check_resources([Step(dict, cpus=2.0), Step(dict, actors=1, cpus=0.5)])


def test_the_pace_is_of_this_run_s_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,200 of 3,000 rows are safe, 600 of them written in the last 60 s: ten a second, three minutes left."""
    monkeypatch.setattr(engine, "time", SimpleNamespace(monotonic=lambda: 100.0))
    job = Job([], [], [], "", "", "id", lambda _: NotImplemented, 1, "pairs", 3000)
    assert engine._pace(job, 1200, 600, 40.0) == ", 10 a second, 3 min left"
    assert engine._pace(job, 3000, 600, 40.0) == ", 10 a second"
    assert engine._pace(job, 600, 0, 100.0) == ""


@pytest.mark.parametrize(
    ("gpus", "flags", "decoding", "encoding"),
    [
        # Without GPUs decoding has the VAE's share, and Ray fuses the two; with them a core for each task.
        (0, {}, (0.25, None), (1, None, 0.0, None)),
        (4, {}, (1.0, None), (4, None, 1.0, None)),
        (
            4,
            {"min_encoders": 2, "decode_tasks": 8, "cpus_per_decode_task": 0.5, "accelerator_type": "L4"},
            (0.5, 8),
            (4, 2, 1.0, "L4"),
        ),
        (4, {"encoders": 8, "gpus_per_encoder": 0.5}, (1.0, None), (8, None, 0.5, None)),
    ],
)
def test_flags_say_what_each_step_takes(
    monkeypatch: pytest.MonkeyPatch, gpus: int, flags: dict[str, Any], decoding: Any, encoding: Any
) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr(engine, "run", jobs.append)
    monkeypatch.setattr(engine, "device_count", lambda: gpus)
    plan: Any = SimpleNamespace(
        config=EncodeConfig(**flags),
        resolution=64,
        model=None,
        sources=[],
        dataset=SimpleNamespace(schema=SimpleNamespace(names=["caption"]), count_rows=lambda: 0),
        destination="store",
        work=lambda name: name,
        filter=Filter(None, None, {}),
    )
    monkeypatch.setattr(encode_latents.source, "columns_to_read", lambda dataset: dataset.schema.names)
    encode_latents.encode_pairs(plan)
    decode, encode = jobs[0].steps
    assert (decode.function, encode.function) == (encoders.CheckAndDecode, encoders.LatentEncoder)
    assert (decode.cpus, decode.tasks) == decoding
    assert (encode.actors, encode.least, encode.gpus, encode.accelerator) == encoding


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"decode_tasks": -1}, "--decode-tasks -1: below zero"),
        ({"encoders": 2, "min_encoders": 3}, "--min-encoders 3: more than --encoders 2"),
        ({"cpus_per_decode_task": 0.0}, "--cpus-per-decode-task 0: must be above 0"),
    ],
)
def test_wrong_shares_are_refused_before_ray_starts(tmp_path: Path, flags: dict[str, Any], told: str) -> None:
    write_pairs(tmp_path / "raw", [])
    with pytest.raises(UserError, match=told):
        encode_latents.main(EncodeConfig(source=str(tmp_path / "raw"), store=str(tmp_path / "store"), **flags))


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
    monkeypatch.setattr(engine.os, "_exit", end)
    job = Job([], [], [], str(tmp_path / "out"), str(checkpoint), "x", lambda table: table["x"], 2, "rows", 3,
              may_go_on=ask)  # fmt: skip
    with engine._watch(job, interval=0.01):
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
