"""Runs jobs on copies of their steps, in processes of a Ray cluster of the command's own.

A copy takes a block at a time and does with it what in_process.py does, whose reading, writing and marks are used here
too. The same copies serve all jobs of a command, so what its passes need is imported once; the next command of the same
process ends them. Ray Data, which spreads a job over nodes and feeds GPUs, would start processes of its own, for
statistics and autoscaling, that import it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import ray

from infra.base.errors import UserError
from pipelines.engine import in_process, quiet, ray_cluster
from pipelines.engine.failures import AGAIN
from pipelines.engine.in_process import map_files  # the files lie on this machine
from pipelines.engine.jobs import Job, Step
from pipelines.engine.ray_cluster import connect, device_count

__all__ = ["call", "connect", "device_count", "map_files", "run"]  # what choose.py asks of an engine

TRIES = 3  # at a block whose copy dies of it, for example as the machine's memory is full
DEAD = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)  # what Ray raises then, or where it ended itself


class _Copy:
    """The steps of the job under way, made where the first block needs them."""

    def __init__(self) -> None:
        self.job = ""
        self.made: in_process.Made | None = None

    def compute(self, job: str, steps: Sequence[Step], block: pa.Table) -> pa.Table:
        """Put a block through a job's steps.

        Args:
            job: what tells this job from others.
        """
        if self.made is None or job != self.job:
            in_process.connect()
            self.made = None  # the memory of one job's models is free before the next are loaded
            self.made = in_process.Made(steps)
            self.job = job
        (computed,) = self.made.through([block])
        return computed


def run(job: Job) -> None:
    """Run a job to its end; rows whose ids the checkpoint already holds are not computed again.

    Raises:
        UserError: a step's own; if the machine has too few cores for the copies, a copy's process dies again and again,
            if Ray itself ends or its disk is full, or as in_process.run_by.
        SystemExit: after a block, if this process was sent SIGTERM.
    """
    if any(step.gpus or step.accelerator for step in job.steps):
        from pipelines.engine import on_ray  # which takes seconds

        on_ray.run(job)
        return
    copies = max([1, *(step.actors for step in job.steps)])
    cpus = max(step.cpus for step in job.steps)
    total = ray.cluster_resources().get("CPU", 0.0)
    if copies * cpus > total:
        raise UserError(
            f"this job needs {copies * cpus:g} CPUs at once, this machine has {total:g}: ask for fewer copies "
            "(--encoders, --samplers or --copies)"
        )
    try:
        with quiet.about_itself(), ray_cluster.ending_own_early():
            in_process.run_by(partial(_on_copies, copies, cpus), job)
    except ray.exceptions.RayTaskError:
        raise
    except ray.exceptions.RayError as error:
        raise _refusal(error, job.output) from error


def _refusal(error: ray.exceptions.RayError, output: str) -> UserError:
    """Return the sentence for an error of Ray's own."""
    if isinstance(error, ray.exceptions.OutOfDiskError):
        return UserError(
            f"{output}: Ray's disk for what does not fit into memory is full (RAY_TMPDIR); make room, then {AGAIN}"
        )
    reason = next(iter(str(error).splitlines()), "no reason given")
    return UserError(f"{output}: Ray failed on this machine ({type(error).__name__}: {reason}); {AGAIN}")


def call(function: Callable[..., Any], *arguments: Any, gpus: float = 0.0) -> Any:
    """Run a function once and return what it returns: here, or where the GPUs that it asks for are."""
    where = ray_cluster.call if gpus else in_process.call
    return where(function, *arguments, gpus=gpus)


def _on_copies(copies: int, cpus: float, job: Job, blocks: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Have copies compute blocks, each at most one at a time, and yield these as they are ready."""
    steps = ray.put(list(job.steps))
    begin = ray.remote(num_cpus=cpus, max_restarts=-1, max_task_retries=TRIES - 1)(_Copy).remote
    kept = ray_cluster.own_copies()
    free = kept[:copies]
    working: dict[ray.ObjectRef, Any] = {}  # who computes a block, by what will be its rows
    for block in blocks:
        if not free and len(kept) < copies:
            kept.append(begin())
            free.append(kept[-1])
        if not free:
            ready, copy = _next_ready(working)
            free.append(copy)
            yield _rows(job, ready)
        copy = free.pop()
        working[copy.compute.remote(job.checkpoint, steps, block)] = copy
    while working:
        yield _rows(job, _next_ready(working)[0])


def _next_ready(working: dict[ray.ObjectRef, Any]) -> tuple[ray.ObjectRef, Any]:
    """Wait for a block, and take it and its copy out of those at work."""
    (ready,), _ = ray.wait(list(working), num_returns=1)
    return ready, working.pop(ready)


def _rows(job: Job, ready: ray.ObjectRef) -> pa.Table:
    try:
        return ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, Exception) else error) from error
    except DEAD as error:
        raise UserError(f"{job.output}: {_what_died()}; {AGAIN}") from error


def _what_died() -> str:
    """Say why no copy computes a block any more: Ray's own process ended, or those of copies did again and again."""
    if not ray_cluster.own_is_alive():
        return ray_cluster.ENDED
    return (
        f"{TRIES} processes died one after another at the same block, usually for want of memory; ask for fewer copies "
        "(--encoders, --samplers or --copies) or lower --batch-size"
    )
