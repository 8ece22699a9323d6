"""The one file of this folder that knows Ray: runs plain steps over Parquet files, exactly once, resumable.

A step is any class whose instances map one Arrow table to another. Ray Data reads, cuts into blocks, runs the steps and
writes; its checkpointing records finished rows by id (pending before a file is written, committed after), so that a
killed run goes on where whole blocks ended.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig
from ray.data.checkpoint.checkpoint_filter import NumpyArrayBasedCheckpointFilter

from infra import files
from infra.errors import UserError

SMALL_CPUS = 0.25  # reads, writes and cheap steps: with whole cores a two-core cluster waits for itself forever
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
FILTER_CPUS = 1.0  # Ray Data's checkpoint filter takes a whole core and cannot be told otherwise


@dataclass(frozen=True)
class Step:
    """A step and what one copy of it needs."""

    function: type
    arguments: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None  # rows; None: whole blocks
    actors: int = 0  # copies that live as long as the job; 0: stateless tasks, as many as fit
    cpus: float = SMALL_CPUS
    gpus: float = 0.0


@dataclass(frozen=True)
class Job:
    """A checkpointed pass over Parquet files."""

    source: Sequence[str]
    columns: Sequence[str]
    steps: Sequence[Step]
    output: str
    checkpoint: str
    id_column: str
    row_ids: Callable[[pa.Table], npt.NDArray[np.int64]]
    rows_per_block: int
    name: str  # of what is counted, for the progress line
    rows: int
    partition_by: str | None = None


def connect() -> None:
    """Join the running Ray cluster (RAY_ADDRESS, or the one on this machine), or start one for this process alone.

    Raises:
        UserError: for a cluster reachable beyond loopback that asks for no token.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        # An http address is the job server's; a driver outside a job joins the cluster on this machine.
        ray.init("auto" if not address or address.startswith("http") else address, logging_level=logging.WARNING)
    except ConnectionError:
        if address:
            raise UserError(f"RAY_ADDRESS {address}: no Ray cluster answers there") from None
        ray.init(_node_ip_address="127.0.0.1", include_dashboard=False, logging_level=logging.WARNING)
    hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if hosts - LOOPBACK and os.environ.get("RAY_AUTH_MODE") != "token":
        raise UserError("this Ray cluster listens beyond loopback and asks for no token; set RAY_AUTH_MODE=token")


def device_count() -> int:
    """Return the number of GPUs in the cluster."""
    return int(ray.cluster_resources().get("GPU", 0))


def run(job: Job) -> None:
    """Run a job to its end; rows whose ids the checkpoint already holds are not computed again.

    Raises:
        UserError: if the cluster is too small for the job's steps ever to run at the same time, or a step's own.
    """
    _check_resources(job.steps)
    context = DataContext.get_current()
    context.enable_progress_bars = False  # our own line says how many rows are safe; Ray's dashboard shows the rest
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context.execution_options.preserve_order = False
    config = CheckpointConfig(
        id_column=job.id_column,
        checkpoint_path=job.checkpoint,
        delete_checkpoint_on_success=False,  # deleting it would make a rerun write every row a second time
        override_filesystem=files.open_filesystem(job.checkpoint)[0],
        checkpoint_filter_cls=_filter_class(job.row_ids),
    )
    config.checkpoint_actor_pool_max_size = 1
    config.checkpoint_actor_memory_bytes = 64 << 20
    context.checkpoint_config = config
    try:
        with _watch(job):
            _build(job)
    except ray.exceptions.RayError as error:
        if refusal := _refusal(error):
            raise refusal from None
        raise
    finally:
        context.checkpoint_config = None


def _build(job: Job) -> None:
    filesystem, _ = files.open_filesystem(job.source[0])
    paths = [files.open_filesystem(path)[1] for path in job.source]
    dataset = ray.data.read_parquet(paths, filesystem=filesystem, columns=list(job.columns), num_cpus=SMALL_CPUS)
    # Small files would otherwise become one block, and a killed run would have nothing to go on from.
    dataset = dataset.repartition(target_num_rows_per_block=job.rows_per_block)
    for step in job.steps:
        dataset = dataset.map_batches(
            step.function if step.actors else step.function(**step.arguments).__call__,
            fn_constructor_kwargs=dict(step.arguments) if step.actors else None,
            compute=ActorPoolStrategy(size=step.actors) if step.actors else None,
            batch_size=step.batch_size,
            batch_format="pyarrow",
            num_cpus=step.cpus,
            num_gpus=step.gpus or None,
        )
    filesystem, output = files.open_filesystem(job.output)
    dataset.write_parquet(
        output,
        filesystem=filesystem,
        partition_cols=[job.partition_by] if job.partition_by else None,
        ray_remote_args={"num_cpus": SMALL_CPUS},
    )


def _filter_class(row_ids: Callable[[pa.Table], npt.NDArray[np.int64]]) -> type:
    class ComputedIdFilter(NumpyArrayBasedCheckpointFilter):
        """Drop rows whose computed id is checkpointed; the id need not be a column of the source."""

        def filter_rows_for_block(self, block: pa.Table) -> pa.Table:
            done = np.isin(row_ids(block), self.checkpointed_ids, assume_unique=False)
            return block.filter(pa.array(~done))

    return ComputedIdFilter


def call(function: Callable[..., Any], *arguments: Any, gpus: float = 0.0) -> Any:
    """Run a function once on the cluster, in a process that ends with it, and return what it returns.

    Raises:
        UserError: the function's own.
    """
    remote = ray.remote(num_cpus=SMALL_CPUS, num_gpus=gpus, max_calls=1)(function)
    try:
        return ray.get(remote.remote(*arguments))
    except ray.exceptions.RayTaskError as error:
        raise _refusal(error) or error from None


def _refusal(error: BaseException) -> UserError | None:
    """Find a step's UserError among the exceptions that Ray wrapped it in; as a new one, without their tracebacks."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None) or seen.__cause__
        if isinstance(seen, UserError) and not isinstance(seen, ray.exceptions.RayTaskError):
            return UserError(str(seen))
        seen = cause if cause is not seen else None
    return None


def map_files(function: Callable[[str], Any], paths: Sequence[str]) -> list[Any]:
    """Apply a function to each path on the cluster and return the results in order."""
    remote = ray.remote(num_cpus=SMALL_CPUS)(function)
    return ray.get([remote.remote(path) for path in paths])


def _check_resources(steps: Sequence[Step]) -> None:
    total = ray.cluster_resources()
    cpus = sum(step.cpus * max(1, step.actors) for step in steps) + 2 * SMALL_CPUS + FILTER_CPUS
    gpus = sum(step.gpus * step.actors for step in steps)
    if cpus > total.get("CPU", 0) or gpus > total.get("GPU", 0):
        raise UserError(
            f"this job needs {cpus:g} CPUs and {gpus:g} GPUs at once, the cluster has {total.get('CPU', 0):g} and "
            f"{total.get('GPU', 0):g}: start fewer copies"
        )


@contextmanager
def _watch(job: Job, patience: float = 900.0, interval: float = 5.0) -> Iterator[None]:
    """Print how many rows are safely written; end the process when none has been for patience seconds."""
    finished = threading.Event()
    counted: dict[str, int] = {}

    def safe_rows() -> int:
        for path in files.list_files(job.checkpoint, ".parquet"):
            if path not in counted and ".pending" not in path:
                filesystem, inner = files.open_filesystem(path)
                counted[path] = pq.read_metadata(inner, filesystem=filesystem).num_rows
        return sum(counted.values())

    def watch() -> None:
        seen, since = -1, time.monotonic()
        while not finished.wait(interval):
            safe = safe_rows()
            if safe != seen:
                print(f"{job.name}: {safe:,} of {job.rows:,} written", flush=True)
                seen, since = safe, time.monotonic()
            elif time.monotonic() - since > patience:
                _give_up(job, patience)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        finished.set()
    print(f"{job.name}: {safe_rows():,} of {job.rows:,} written", flush=True)


def _give_up(job: Job, patience: float) -> None:
    free, total = ray.available_resources(), ray.cluster_resources()
    print(
        f"error: {job.output}: nothing was written for {patience:.0f} s; free CPUs {free.get('CPU', 0):g} of "
        f"{total.get('CPU', 0):g}, GPUs {free.get('GPU', 0):g} of {total.get('GPU', 0):g}. Another job may hold them; "
        "run the same command again when they are free",
        flush=True,
    )
    os._exit(3)  # the main thread waits inside Ray and would not notice an exception here
