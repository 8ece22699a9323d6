"""How far a job is: the rows that its checkpoint holds, and a line now and then for the terminal; without Ray."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from infra import files
from infra.errors import UserError
from pipelines.jobs import Job

PENDING = ".pending.parquet"  # ends the mark of a block that is being written; renamed, the block counts as written


def finished_rows(checkpoint: str) -> int:
    """Count the rows that a checkpoint holds: what an earlier run wrote safely."""
    return sum(rows_of(path) for path in committed(checkpoint))


def rows_of(path: str) -> int:
    """Read how many rows a Parquet file has."""
    filesystem, inner = files.open_filesystem(path)
    return pq.read_metadata(inner, filesystem=filesystem).num_rows


def done_ids(job: Job) -> npt.NDArray[np.int64]:
    """Read the ids of the rows that are safely written; files still marked pending do not count."""
    filesystem, _ = files.open_filesystem(job.checkpoint)
    paths = [files.open_filesystem(path)[1] for path in committed(job.checkpoint)]
    if not paths:
        return np.empty(0, np.int64)
    table = pads.dataset(paths, filesystem=filesystem, format="parquet").to_table(columns=[job.id_column])
    return table[job.id_column].to_numpy()


def committed(checkpoint: str) -> list[str]:
    """List a checkpoint's files of blocks that are safely written."""
    return [path for path in files.list_files(checkpoint, ".parquet") if not path.endswith(PENDING)]


def clear_unfinished(job: Job) -> None:
    """Delete what a killed run left half written: the files of blocks that do not count as written, then their marks.

    S3 renames a mark by a copy and a deletion. A block with both marks is whole, and only the pending one goes. A file
    without any is of a worker that outlived its job. Killed between two deletions, the next run does the rest.
    """
    pending = files.list_files(job.checkpoint, PENDING)
    begun = {_name(path).removesuffix(PENDING) for path in pending}
    whole = {_name(path).removesuffix(".parquet") for path in committed(job.checkpoint)}
    unmarked = []
    for path in files.list_files(job.output, ".parquet"):
        block = _name(path).rpartition("-")[0]  # its files, one or more a folder, are numbered behind a dash
        if block in begun - whole:
            files.remove(path)
        elif block not in whole:
            unmarked.append(path)
    if unmarked:
        done = done_ids(job)  # a repair's mark names no block, but its rows
        for path in unmarked:
            if not _holds_only(path, job.id_column, done):
                files.remove(path)
    for path in pending:
        files.remove(path)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _holds_only(path: str, id_column: str, done: npt.NDArray[np.int64]) -> bool:
    filesystem, inner = files.open_filesystem(path)
    try:
        found = pq.read_table(inner, filesystem=filesystem, columns=[id_column], partitioning=None)
    except pa.ArrowInvalid:  # cut off while it was written
        return False
    return bool(np.isin(found[id_column].to_numpy(), done).all())


@contextmanager
def watch(
    job: Job, standstill: Callable[[float], str], interval: float = 5.0, remark: float = 300.0, patience: float = 3600.0
) -> Iterator[None]:
    """Print how many rows are safely written, remark when none is for long, and end the process after patience.

    Args:
        standstill: what to say when nothing was written for so many seconds.
    """
    finished = threading.Event()
    counted: dict[str, int] = {}

    def safe_rows() -> int:
        for path in committed(job.checkpoint):
            if path not in counted:
                counted[path] = rows_of(path)
        return sum(counted.values())

    def look() -> None:
        seen, since, remarked = -1, time.monotonic(), 0.0
        first, began = 0, since
        while not finished.wait(interval):
            try:
                if (safe := safe_rows()) != seen:
                    job.may_go_on()
            except UserError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)
                os._exit(2)  # the main thread waits inside Ray and would not notice an exception here
            except (OSError, pa.ArrowInvalid):  # disk or bucket did not answer, or a file is still being written
                continue
            idle = time.monotonic() - since
            if safe != seen:
                if seen < 0:
                    first, began = safe, time.monotonic()
                print(f"{job.name}: {safe:,} of {job.rows:,} written{pace(job, safe, safe - first, began)}", flush=True)
                seen, since, remarked = safe, time.monotonic(), 0.0
            elif idle > patience:
                print(f"error: {standstill(idle)}; run the same command again when they are free", flush=True)
                os._exit(3)
            elif idle > remarked + remark:
                print(standstill(idle), flush=True)
                remarked = idle

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        finished.set()
    print(f"{job.name}: {safe_rows():,} of {job.rows:,} written", flush=True)


def pace(job: Job, safe: int, new: int, began: float) -> str:
    """Say how fast rows are written and how long the rest will take; new: of the safe ones, since began."""
    if not new:
        return ""
    rate = new / (time.monotonic() - began)
    left = f", {(job.rows - safe) / rate / 60:,.0f} min left" if safe < job.rows else ""
    return f", {rate:,.3g} a second{left}"
