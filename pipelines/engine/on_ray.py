"""Runs jobs (jobs.py) exactly once, resumable, on Ray Data.

Ray Data reads, cuts into blocks, runs the steps and writes; its checkpointing records finished rows by id (pending
before a file is written, committed after), so that a killed run goes on where whole blocks ended.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy
from ray.data._internal.datasource.parquet_datasink import ParquetDatasink
from ray.data._internal.execution.interfaces import TaskContext
from ray.data._internal.planner.plan_write_op import WRITE_UUID_KWARG_NAME
from ray.data.block import Block, BlockAccessor, BlockMetadata
from ray.data.checkpoint import CheckpointConfig
from ray.data.checkpoint.checkpoint_filter import IdColumnCheckpointManager
from ray.data.context import DEFAULT_TARGET_MAX_BLOCK_SIZE
from ray.data.datasource import Datasource, ReadTask

from infra.base import files, metrics, object_storage, tables
from infra.base.errors import UserError, chain, comes_again
from pipelines.engine import block_rows, in_process, progress, quiet
from pipelines.engine.failures import AGAIN, full_disk
from pipelines.engine.jobs import SMALL_CPUS, Job, Step
from pipelines.engine.ray_cluster import (
    call,
    connect,
    device_count,
    ending_on_sigterm,
    export,
    log_level,
    map_files,
)

__all__ = ["call", "connect", "device_count", "map_files", "run"]  # what choose.py asks of an engine

Kind = TypeVar("Kind", bound=BaseException)
BLOCKS_IN_STORE = 64  # at least, in the smallest node's object store
PRESSURE = 0.5  # of the object store that Ray Data may fill, itself half of all: from there on nothing more is read
OVERSHOOT = 1.5  # a step that holds so many times its share gets no more of it, then
ROOM_CPUS = 1.0  # that a job leaves for reading, dropping finished rows, cutting into blocks and writing


def run(job: Job) -> None:
    """Run a job to its end; rows whose ids the checkpoint already holds are not computed again.

    Raises:
        SystemExit: if this process was sent SIGTERM.
        UserError: if the cluster is too small for the job's steps ever to run at the same time, or a step's own; if a
            node was lost and Ray could not do without what ran there, or a disk is full: then the same job goes on.
    """
    if job.is_small and _is_best_here(job.steps):
        in_process.connect()
        in_process.run(job)
        return
    _check_resources(job.steps)
    nodes = _living_nodes()
    context = DataContext.get_current()
    context.enable_progress_bars = False  # our own line says how many rows are safe; Ray's dashboard shows the rest
    logging.getLogger("ray.data").setLevel(log_level())
    context.execution_options.preserve_order = False
    context.execution_no_progress_timeout_s = -1  # Ray's is half an hour; our watch says what is free, and waits longer
    _bound_memory(context)
    config = CheckpointConfig(
        id_column=job.id_column,
        checkpoint_path=job.checkpoint,
        delete_checkpoint_on_success=False,  # deleting it would make a rerun write every row a second time
        override_filesystem=files.open_filesystem(job.checkpoint)[0],
        checkpoint_manager_cls=_NoFilter,
    )
    context.checkpoint_config = config
    try:
        standstill = functools.partial(_standstill, job)
        with quiet.about_itself(), ending_on_sigterm(job.output), progress.watch(job, standstill):
            _build(job)
    except Exception as error:
        refusal = object_storage.refusal_in(error)
        if refusal is not None:
            raise refusal from None
        if nodes - _living_nodes():  # Ray outlives this but where it listed files; what it raises then says little
            raise UserError(f"{job.output}: a node was lost with work that Ray needed; {AGAIN}") from error
        full = _full_disk(error)
        if full:
            raise UserError(f"{job.output}: {full}; make room, then {AGAIN}") from error
        again = comes_again(_innermost(error), job.output)
        if again:
            raise again from error
        raise
    finally:
        context.checkpoint_config = None


def _is_best_here(steps: Sequence[Step]) -> bool:
    """Say whether this process, which stands on the only node, would run steps as one copy without a GPU does.

    An actor for them would import in seconds what this process has imported, and do the same on the same machine.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    here = ray.get_runtime_context().get_node_id()
    is_only = [node["NodeID"] for node in nodes] == [here]
    return is_only and all(step.actors == 1 and not step.gpus and not step.accelerator for step in steps)


def _bound_memory(context: DataContext) -> None:
    """Have Ray Data hold back what is read for as long as the steps after it are full.

    Ray's own 128 MiB a block do not fit beside each other into a small object store. And where a step has no room for
    its results, Ray lets the one before it go on reading, a block at every look, until all is on disk; with these two
    fractions the full step runs instead. No result depends on any of this: a row's does not on its block.
    """
    context.target_max_block_size = _block_bytes()
    context.object_store_memory_pressure_fraction = PRESSURE
    context.object_store_reservation_overshoot_ratio = OVERSHOOT


def _block_bytes() -> int:
    """Return the bytes of a block, at most: Ray's default, or a part of the smallest object store of a node."""
    return min([DEFAULT_TARGET_MAX_BLOCK_SIZE, *(size // BLOCKS_IN_STORE for size in _object_stores())])


def _object_stores() -> list[int]:
    """Return the bytes of each node's object store; a node may have none."""
    sizes = [int(node["Resources"].get("object_store_memory", 0)) for node in ray.nodes() if node["Alive"]]
    return [size for size in sizes if size]


def _living_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _found(error: BaseException | None, kind: type[Kind]) -> Kind | None:
    """Find an exception of a kind among those that Ray wrapped around it."""
    # Ray's wrapping is of the kind that it wraps, too, but has neither its sentence nor its number.
    wanted = (one for one in chain(error) if isinstance(one, kind) and not _is_wrapping(one))
    return next(wanted, None)


def _innermost(error: BaseException) -> BaseException:
    """Return what Ray wrapped: the step's own exception."""
    own = [one for one in chain(error) if not _is_wrapping(one)]
    return own[-1] if own else error


def _is_wrapping(error: BaseException) -> bool:
    return isinstance(error, ray.exceptions.RayTaskError)


def _full_disk(error: BaseException) -> str | None:
    """Say which disk is full: where the result is written, or where Ray puts what does not fit into memory."""
    if _found(error, ray.exceptions.OutOfDiskError):
        where = "--temp-dir or --object-spilling-directory of ray start"
        return f"Ray's disk for what does not fit into memory is full ({where})"
    refused = _found(error, OSError)
    return full_disk(refused) if refused else None


def _build(job: Job) -> None:
    progress.clear_unfinished(job)
    # With the job's own reader: Ray's takes columns out of paths, and types from whichever file it opens first.
    # A task per file: where Ray chooses, it cuts small files into blocks of a few rows, and nothing joins these again.
    dataset = ray.data.read_datasource(_Files(job), num_cpus=SMALL_CPUS, override_num_blocks=len(job.source))
    done = progress.done_ids(job)
    if len(done):
        drop = _DropDone(ray.put(done), job.row_ids)
        dataset = dataset.map_batches(drop.__call__, batch_size=None, batch_format="pyarrow", num_cpus=SMALL_CPUS)
    # Small files would otherwise become one block, and a killed run would have nothing to go on from.
    dataset = dataset.repartition(target_num_rows_per_block=job.rows_per_block)
    for step in job.steps:
        kind: dict[str, Any] = {"accelerator_type": step.accelerator} if step.accelerator else {}
        measured = _measured(step, job.name, job.counts if step is job.steps[-1] else None)
        dataset = dataset.map_batches(
            measured if step.actors else measured(**step.arguments).__call__,
            fn_constructor_kwargs=dict(step.arguments) if step.actors else None,
            compute=_compute(step),
            batch_size=step.batch_size,
            batch_format="pyarrow",
            num_cpus=step.cpus,
            num_gpus=step.gpus or None,
            **kind,
        )
    dataset.write_datasink(_NotingSink(job), ray_remote_args={"num_cpus": SMALL_CPUS})


class _NotingSink(ParquetDatasink):
    """Ray's own writing of Parquet, before which a block's rows are noted."""

    def __init__(self, job: Job) -> None:
        filesystem, output = files.open_filesystem(job.output)
        columns = [job.partition_by] if job.partition_by else None
        super().__init__(output, filesystem=filesystem, partition_cols=columns, arrow_parquet_args=dict(job.written_as))
        self.checkpoint = job.checkpoint
        self.partition_by = job.partition_by

    def write(self, blocks: Iterable[Block], ctx: TaskContext) -> None:
        """Note and write the rows of one task, which are one block."""
        held = list(blocks)
        rows = pa.concat_tables(
            [BlockAccessor.for_block(block).to_arrow() for block in held], promote_options="default"
        )
        if rows.num_rows:
            file = self.filename_provider.get_filename_for_task(ctx.kwargs[WRITE_UUID_KWARG_NAME], ctx.task_idx)
            parts = dict(block_rows.parted(rows, self.partition_by))
            block_rows.note(self.checkpoint, file.removesuffix(tables.SUFFIX), parts)
        super().write(held, ctx)


class _Files(Datasource):
    """A job's files, read with the job's reader: a task reads one file after another, a piece at a time."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.paths = list(job.source)
        self.columns = list(job.columns)
        self.read = job.read

    def estimate_inmemory_data_size(self) -> int | None:
        """Return None: how large rows are in memory is not known before they are read."""
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        """Spread the files over at most so many tasks."""
        parts = np.array_split(self.paths, min(len(self.paths), max(1, parallelism)))
        return [self._task([str(path) for path in part]) for part in parts]

    def _task(self, paths: list[str]) -> ReadTask:
        read = self.read
        names = self.columns

        def pieces() -> Iterator[pa.Table]:
            for path in paths:
                yield from read(path, names)

        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=tuple(paths))
        return ReadTask(pieces, unknown)


def _compute(step: Step) -> ActorPoolStrategy | TaskPoolStrategy:
    if not step.actors:
        return TaskPoolStrategy(size=step.tasks)
    if step.least is None or step.least >= step.actors:
        return ActorPoolStrategy(size=step.actors)
    return ActorPoolStrategy(min_size=step.least, max_size=step.actors)


def _measured(step: Step, job: str, counts: Callable[[pa.Table], Iterable[metrics.Sample]] | None) -> type:
    """Return a step's class, under its own name, whose batches are counted and timed."""

    class Measured:
        def __init__(self, **arguments: Any) -> None:
            self.step = step.function(**arguments)

        def __call__(self, batch: pa.Table) -> pa.Table:
            started = time.perf_counter()
            out = self.step(batch)
            labels = {"job": job, "step": step.function.__name__}
            export(
                [
                    metrics.Sample("dpo_rows", out.num_rows, labels),
                    metrics.Sample("dpo_batch_seconds", time.perf_counter() - started, labels),
                    *(counts(out) if counts else ()),
                ]
            )
            return out

    Measured.__name__ = Measured.__qualname__ = step.function.__name__  # Ray's dashboard shows it
    return Measured


class _NoFilter(IdColumnCheckpointManager):
    """Leave out Ray's own filter of finished rows, and its clearing: progress.clear_unfinished has been there before.

    That filter's actor holds a whole core for as long as the job runs: beside the encoder, a two-core cluster then
    waits for itself forever. It also needs the id among the source's columns.
    That clearing deletes a block that has both its marks, though it counts as written.
    """

    def load_checkpoint(self, *_: object, **__: object) -> tuple[None, int]:
        return None, 0


class _DropDone:
    """Drop the rows whose computed ids are checkpointed; those ascend."""

    def __init__(self, done: ray.ObjectRef, row_ids: Callable[[pa.Table], npt.NDArray[np.int64]]) -> None:
        self.done = done
        self.row_ids = row_ids

    def __call__(self, block: pa.Table) -> pa.Table:
        return block.filter(pa.array(~progress.are_among(self.row_ids(block), ray.get(self.done))))


def _check_resources(steps: Sequence[Step]) -> None:
    total = ray.cluster_resources()
    # Actors stay for as long as the job runs; tasks come and go, and the largest of them must find room too.
    copies = [min(step.actors, step.least or step.actors) for step in steps]
    largest = max([ROOM_CPUS, *(step.cpus for step in steps if not step.actors)])
    cpus = sum(step.cpus * count for step, count in zip(steps, copies, strict=True)) + largest
    gpus = sum(step.gpus * count for step, count in zip(steps, copies, strict=True))
    if cpus > total.get("CPU", 0) or gpus > total.get("GPU", 0):
        raise UserError(
            f"this job needs {cpus:g} CPUs and {gpus:g} GPUs at once, the cluster has {total.get('CPU', 0):g} and "
            f"{total.get('GPU', 0):g}: ask for fewer copies (--encoders, --samplers or --copies)"
        )


def _standstill(job: Job, seconds: float) -> str:
    free = ray.available_resources()
    total = ray.cluster_resources()
    return (
        f"{job.output}: nothing was written for {seconds:.0f} s; free CPUs {free.get('CPU', 0):g} of "
        f"{total.get('CPU', 0):g}, GPUs {free.get('GPU', 0):g} of {total.get('GPU', 0):g}; another job may hold them, "
        f"or several batches do not fit into the smallest object store of {min(_object_stores(), default=0):,} bytes"
    )
