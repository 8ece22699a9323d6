"""What the engine asks of Ray for a step; no cluster."""

from __future__ import annotations

import errno
import itertools
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pytest
from ray.data import ActorPoolStrategy, TaskPoolStrategy
from ray.data._internal.execution.interfaces import TaskContext
from ray.data._internal.planner.checkpoint.plan_write_op import _generate_base_filename
from ray.data._internal.planner.plan_write_op import WRITE_UUID_KWARG_NAME
from support.material import write_pairs

from infra.base import files
from infra.base.errors import UserError, chain
from pipelines.engine import block_rows, choose, on_ray, ray_cluster
from pipelines.engine.jobs import Job, Step
from pipelines.latents import encode_latents, encode_passes, encoders
from pipelines.latents.decoding import CheckAndDecode
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.safety import Filter
from pipelines.raw import raw_table


def test_copies_begin_at_the_least_and_tasks_have_a_bound() -> None:
    copies = on_ray._compute(Step(function=dict, actors=4, least=2))
    assert isinstance(copies, ActorPoolStrategy)
    assert (copies.min_size, copies.max_size) == (2, 4)
    for least in (None, 4):
        fixed = on_ray._compute(Step(function=dict, actors=4, least=least))
        assert isinstance(fixed, ActorPoolStrategy)
        assert (fixed.min_size, fixed.max_size) == (4, 4)
    bounded, free = on_ray._compute(Step(function=dict, tasks=3)), on_ray._compute(Step(function=dict))
    assert isinstance(bounded, TaskPoolStrategy)
    assert isinstance(free, TaskPoolStrategy)
    assert (bounded.size, free.size) == (3, None)


def test_a_step_s_error_that_is_raised_again_from_ray_s_wrapping_is_found() -> None:
    """The chain is error, wrapping, error, and so on: each is looked at once."""
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapping = on_ray.ray.exceptions.RayTaskError("Write", "a traceback", full)
    full.__cause__ = wrapping
    assert list(itertools.islice(chain(wrapping), 9)) == [wrapping, full]
    assert on_ray._innermost(wrapping) is on_ray._innermost(full) is full
    assert on_ray._found(wrapping, OSError) is full
    assert on_ray._found(wrapping, UserError) is None


def test_a_cluster_must_hold_the_least_not_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores: listing takes one, copies of a half each leave room for two."""
    monkeypatch.setattr(on_ray, "ray", SimpleNamespace(cluster_resources=lambda: {"CPU": 2.0}))
    on_ray._check_resources([Step(function=dict, actors=9, least=2, cpus=0.5)])
    with pytest.raises(UserError, match=r"needs 2\.5 CPUs"):
        on_ray._check_resources([Step(function=dict, actors=9, least=3, cpus=0.5)])
    with pytest.raises(UserError, match=r"needs 5\.5 CPUs"):
        on_ray._check_resources([Step(function=dict, actors=9, cpus=0.5)])
    with pytest.raises(UserError, match=r"needs 2\.5 CPUs"):
        on_ray._check_resources([Step(function=dict, cpus=2.0), Step(function=dict, actors=1, cpus=0.5)])


def test_captions_stay_in_the_asking_process_where_its_node_is_the_only_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nodes: list[dict[str, Any]] = [{"Alive": True, "NodeID": "a"}, {"Alive": False, "NodeID": "b"}]
    context = SimpleNamespace(get_node_id=lambda: "a")
    monkeypatch.setattr(on_ray, "ray", SimpleNamespace(nodes=lambda: nodes, get_runtime_context=lambda: context))
    one = Step(function=dict, actors=1)
    assert on_ray._is_best_here([one])
    assert not on_ray._is_best_here([replace(one, actors=2)])
    assert not on_ray._is_best_here([replace(one, gpus=0.5)])
    assert not on_ray._is_best_here([replace(one, accelerator="L4")])
    ran: list[Job] = []
    monkeypatch.setattr(on_ray.in_process, "run", ran.append)
    job = Job(
        source=[],
        columns=[],
        steps=[one],
        output=str(tmp_path),
        checkpoint=str(tmp_path),
        id_column="id",
        row_ids=lambda table: table["id"].to_numpy(),
        rows_per_block=1,
        name="captions",
        rows=0,
        is_small=True,
    )
    on_ray.run(job)
    assert ran == [job]
    nodes[1]["Alive"] = True
    assert not on_ray._is_best_here([one])


@pytest.mark.parametrize(
    ("stores", "block"),
    [
        ([80e6, 16 << 30], 1_250_000),  # 80 MB / 64
        ([1 << 30], 16 << 20),
        ([16 << 30, 200 << 30], 128 << 20),  # Ray's own, where 64 of them have room
        ([], 128 << 20),
    ],
)
def test_the_smallest_object_store_decides_the_blocks(
    monkeypatch: pytest.MonkeyPatch, stores: list[float], block: int
) -> None:
    nodes = [{"Alive": True, "Resources": {"object_store_memory": size}} for size in stores]
    gone = {"Alive": False, "Resources": {"object_store_memory": 1.0}}
    monkeypatch.setattr(on_ray, "ray", SimpleNamespace(nodes=lambda: [*nodes, gone, {"Alive": True, "Resources": {}}]))
    assert on_ray._block_bytes() == block


def test_files_are_cut_into_blocks_by_the_job_not_by_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray would cut 2,400 rows of one file into 67 blocks of 36: batches of 32 and 4, with other last bits than 32."""
    read = Mock()
    monkeypatch.setattr(on_ray.ray.data, "read_datasource", read)
    on_ray._build(
        Job(
            source=["one.parquet", "two.parquet"],
            columns=["id"],
            steps=[],
            output=str(tmp_path / "out"),
            checkpoint=str(tmp_path / "done"),
            id_column="id",
            row_ids=lambda table: table["id"].to_numpy(),
            rows_per_block=128,
            name="rows",
            rows=2400,
        )
    )
    assert read.call_args.kwargs["override_num_blocks"] == 2
    read.return_value.repartition.assert_called_once_with(target_num_rows_per_block=128)


def test_what_ray_writes_is_what_was_noted_under_the_name_of_its_mark(tmp_path: Path) -> None:
    """A task's rows are one block, in two folders, of a mark that Ray names as its files; no cluster writes here."""
    job = Job(
        source=[],
        columns=[],
        steps=[],
        output=str(tmp_path / "out"),
        checkpoint=str(tmp_path / "done"),
        id_column="x",
        row_ids=lambda table: table["x"],
        rows_per_block=4,
        name="numbers",
        rows=4,
        partition_by="odd",
    )
    sink = on_ray._NotingSink(job)
    context = TaskContext(task_idx=3, op_name="Write", kwargs={WRITE_UUID_KWARG_NAME: "u" * 8})
    sink.write([pa.table({"x": [0, 1], "odd": [0, 1]}), pa.table({"x": [2, 3], "odd": [0, 1]})], context)
    mark = f"{_generate_base_filename(sink, context)}.parquet"
    files.write_table(str(tmp_path / "done" / mark), pa.table({"x": [0, 1, 2, 3]}))
    digests = block_rows.digests_below(job.output)
    assert [Path(path).parent.name for path in digests] == ["odd=0", "odd=1"]
    block_rows.refuse_altered(job.output, job.checkpoint, digests)
    with pytest.raises(block_rows.AlteredError, match="not as this job wrote it"):
        block_rows.refuse_altered(job.output, job.checkpoint, dict.fromkeys(digests, "others"))


def test_sigterm_ends_a_job_with_one_sentence_before_ray_ends_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registered: list[Any] = []
    monkeypatch.setattr(ray_cluster.atexit, "register", registered.append)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, ray_cluster.ending_on_sigterm("out"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "out: stopped on request; the same command goes on from what is written\n"
    codes: list[int] = []
    monkeypatch.setattr(ray_cluster.os, "_exit", codes.append)
    registered[0]()
    assert codes == [143]


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
    monkeypatch.setattr(choose._Current, "engine", on_ray)
    monkeypatch.setattr(on_ray, "run", jobs.append)
    monkeypatch.setattr(on_ray, "device_count", lambda: gpus)
    plan: Any = SimpleNamespace(
        config=EncodeConfig(**flags),
        resolution=64,
        buckets=(),
        model=None,
        sources=[],
        dataset=SimpleNamespace(schema=SimpleNamespace(names=["caption"]), count_rows=lambda: 0),
        destination="store",
        latent_bytes=1,
        work=lambda name: name,
        filter=Filter(None, None, {}),
    )
    monkeypatch.setattr(raw_table, "columns_to_read", lambda dataset: dataset.schema.names)
    encode_passes.encode_pairs(plan)
    decode, encode = jobs[0].steps
    assert (decode.function, encode.function) == (CheckAndDecode, encoders.LatentEncoder)
    assert (decode.cpus, decode.tasks) == decoding
    assert (encode.actors, encode.least, encode.gpus, encode.accelerator) == encoding


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"decode_tasks": -1}, "--decode-tasks -1: must be at least 0"),
        ({"encoders": 2, "min_encoders": 3}, "--min-encoders 3: more than --encoders 2"),
        ({"cpus_per_decode_task": 0.0}, "--cpus-per-decode-task 0: must be above 0"),
        ({"max_bad_fraction": 1.5}, "--max-bad-fraction 1.5: must be from 0 to 1"),
        ({"max_bad_fraction": float("nan")}, "--max-bad-fraction nan: must be from 0 to 1"),
    ],
)
def test_wrong_shares_are_refused_before_ray_starts(tmp_path: Path, flags: dict[str, Any], told: str) -> None:
    write_pairs(tmp_path / "raw", [])
    with pytest.raises(UserError, match=told):
        encode_latents.main(EncodeConfig(source=str(tmp_path / "raw"), store=str(tmp_path / "store"), **flags))
