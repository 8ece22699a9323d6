"""Runs jobs (jobs.py) in the process that asks, without Ray: for one copy of each step.

Blocks, files and marks are those of on_ray.py, so that either engine finishes what the other began. One block after
another is read, computed and written: its mark as pending, its files, then the mark as written. Cheap steps before the
model's run a few batches ahead, in threads. own_copies.py has several processes compute, and does the rest as here.
"""

from __future__ import annotations

import itertools
import os
import sys
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from infra.base import files, garbage, termination
from pipelines.engine import block_rows, failures, progress
from pipelines.engine.jobs import Job, Step

AHEAD = 4  # threads of a cheap step, at most, where the job names no number
READERS = 4  # files that map_files reads at once

Batch = tuple[bool, pa.Table]  # rows, and whether their block ends with them
Compute = Callable[[Job, Iterator[pa.Table]], Iterator[pa.Table]]  # puts blocks through a job's steps, in any order


def connect() -> None:
    """Bound the threads of a model as Ray does for its workers, for the same results to the last bit."""
    import torch  # not before a job runs

    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))


def gpus_here() -> int:
    """Return the number of this machine's GPUs."""
    import torch

    return torch.cuda.device_count()


def device_count() -> int:
    """Return the number of GPUs that a job may use: the first, where there is one."""
    return min(1, gpus_here())


def call(function: Callable[..., Any], *arguments: Any, gpus: float = 0.0) -> Any:
    """Run a function once and return what it returns."""
    del gpus  # it takes the first GPU by itself, where there is one
    return function(*arguments)


def map_files(function: Callable[[str], Any], paths: Sequence[str]) -> list[Any]:
    """Apply a function to each path, a few at once, and return the results in order."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(function, paths))


def run(job: Job) -> None:
    """Run a job to its end in this process; rows whose ids the checkpoint already holds are not computed again.

    Raises:
        UserError, SystemExit: as run_by does.
    """
    run_by(_computed, job)


def run_by(compute: Compute, job: Job) -> None:
    """Run a job to its end; what is read, and what is written, passes through this process.

    Args:
        compute: puts blocks through the job's steps.

    Raises:
        UserError: a step's own; if a disk is full, or the same work would fail again.
        SystemExit: after the block under way, if this process was asked to end.
    """
    garbage.search_as_usual()
    progress.clear_unfinished(job)
    done = progress.done_ids(job)
    count = progress.Count(job, len(done))
    attempt = uuid.uuid4().hex
    try:
        with termination.listening():
            for number, block in enumerate(compute(job, _blocks(job, done))):
                _write(job, f"{attempt}_{number:06d}", block)
                count.add(block.num_rows)
                _end_if_asked(job)
            _end_if_asked(job)  # while rows were read of which none was left, or by an earlier block of this process
    except Exception as error:
        refusal = failures.refusal(error, job.output)
        if refusal is None or refusal is error:
            raise
        raise refusal from error
    count.end()


def _end_if_asked(job: Job) -> None:
    if termination.is_asked():
        termination.answer()
        print(f"{job.output}: stopped on request; {failures.AGAIN}", file=sys.stderr, flush=True)
        raise SystemExit(termination.EXIT)


def _blocks(job: Job, done: npt.NDArray[np.int64]) -> Iterator[pa.Table]:
    """Read the rows that are not done, ids ascending, and cut them into blocks; the last one may be shorter.

    Where this process is asked to end, nothing more is read.
    """
    held: list[pa.Table] = []
    rows = 0
    for piece in itertools.chain.from_iterable(job.read(path, job.columns) for path in job.source):
        if termination.is_asked():
            return
        left = piece.filter(pa.array(~progress.are_among(job.row_ids(piece), done)))
        held.append(left)
        rows += left.num_rows
        while rows >= job.rows_per_block:
            table = pa.concat_tables(held)
            yield table.slice(0, job.rows_per_block)
            held = [table.slice(job.rows_per_block)]
            rows -= job.rows_per_block
    if rows:
        yield pa.concat_tables(held)


def _computed(job: Job, blocks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Put blocks through a job's steps, whose models are loaded once there is a block."""
    begun = next(blocks, None)
    if begun is None:
        return
    yield from Made(job.steps).through(itertools.chain([begun], blocks))


class Made:
    """A job's steps, made: their models are loaded."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.settings = steps
        self.steps = [step.function(**step.arguments) for step in steps]

    def through(self, blocks: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Put blocks through the steps, one after another."""
        first = self.settings[0]
        batches = _cut(blocks, first.batch_size)
        is_cheap = len(self.steps) > 1 and not first.actors
        made = _ahead(self.steps[0], batches, _threads(first)) if is_cheap else _one_by_one(self.steps[0], batches)
        for is_last, table in made:
            tables: Iterator[pa.Table] = itertools.chain([table], () if is_last else _rest_of_block(made))
            for step, settings in zip(self.steps[1:], self.settings[1:], strict=True):
                tables = map(step, _rebatched(tables, settings.batch_size))
            yield pa.concat_tables(tables)


def _threads(step: Step) -> int:
    return step.tasks or min(AHEAD, len(os.sched_getaffinity(0)))


def _cut(blocks: Iterable[pa.Table], size: int | None) -> Iterator[Batch]:
    """Cut blocks into batches of a size, the last one of each block shorter; None: each is one."""
    for block in blocks:
        step = size or block.num_rows
        for start in range(0, block.num_rows, step):
            yield start + step >= block.num_rows, block.slice(start, step)


def _rest_of_block(batches: Iterator[Batch]) -> Iterator[pa.Table]:
    for is_last, table in batches:
        yield table
        if is_last:
            return


def _rebatched(tables: Iterable[pa.Table], size: int | None) -> Iterator[pa.Table]:
    """Cut a block's tables anew into batches of a size, the last one shorter; None: into one."""
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        held.append(table)
        rows += table.num_rows
        while size is not None and rows >= size:
            joined = pa.concat_tables(held)
            yield joined.slice(0, size)
            held = [joined.slice(size)]
            rows -= size
    if rows:
        yield pa.concat_tables(held)


def _one_by_one(step: Callable[[pa.Table], pa.Table], batches: Iterator[Batch]) -> Iterator[Batch]:
    for is_last, batch in batches:
        yield is_last, step(batch)


def _ahead(step: Callable[[pa.Table], pa.Table], batches: Iterator[Batch], threads: int) -> Iterator[Batch]:
    """Run a step in threads, in order, at most one batch more than there are threads before it is asked for."""
    waiting: deque[tuple[bool, Future[pa.Table]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for is_last, batch in batches:
                waiting.append((is_last, pool.submit(step, batch)))
                if len(waiting) > threads:
                    ended, made = waiting.popleft()
                    yield ended, made.result()
            for ended, made in waiting:
                yield ended, made.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # where the reader ended early


def _write(job: Job, name: str, block: pa.Table) -> None:
    """Write a block, whose mark counts as written when its files are on the disk."""
    if not block.num_rows:
        return
    pending = files.join(job.checkpoint, f"{name}{progress.PENDING}")
    _write_file(pending, block.select([job.id_column]))
    parts = dict(block_rows.parted(block, job.partition_by))
    block_rows.note(job.checkpoint, name, parts)
    for folder, rows in parts.items():
        _write_file(block_rows.path_of(job.output, folder, name), rows, job.written_as)
    _settle(pending, files.join(job.checkpoint, f"{name}.parquet"))


def _settle(pending: str, written: str) -> None:
    filesystem, before = files.open_filesystem(pending)
    filesystem.move(before, files.open_filesystem(written)[1])


def _write_file(path: str, table: pa.Table, options: Mapping[str, Any] | None = None) -> None:
    filesystem, inner = files.open_filesystem(files.writable(path))
    if not files.is_remote(path):
        Path(inner).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, inner, filesystem=filesystem, **(options or {}))
    files.flush(path)
