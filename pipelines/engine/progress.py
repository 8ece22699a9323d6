"""How far a job is: the rows that its checkpoint holds, and a line now and then for the terminal; without Ray."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base import files, tables
from infra.base.errors import UserError
from pipelines.engine.jobs import Job

PENDING = ".pending.parquet"  # ends the mark of a block that is being written; renamed, the block counts as written
COMPARED_AT_ONCE = 16  # blocks
REPAIRED = "kept"  # the mark of all rows that a repair found whole, whatever their files are called


def finished_rows(checkpoint: str) -> int:
    """Count the rows that a checkpoint holds: what an earlier run wrote safely."""
    return sum(tables.count_rows(path) for path in committed(checkpoint))


def done_ids(job: Job) -> npt.NDArray[np.int64]:
    """Read the ids of the rows that are safely written, ascending; files still marked pending do not count."""
    paths = committed(job.checkpoint)
    if not paths:
        return np.empty(0, np.int64)
    return np.sort(tables.read(paths, [job.id_column])[job.id_column].to_numpy())


def are_among(ids: npt.NDArray[np.int64], done: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Say of each id whether it is among those that are done, which ascend.

    A block is looked up in them by halves: np.isin would sort all of them again for each block.
    """
    if not len(done):
        return np.zeros(len(ids), bool)
    places = np.minimum(np.searchsorted(done, ids), len(done) - 1)
    return done[places] == ids


def committed(checkpoint: str) -> list[str]:
    """List a checkpoint's files of blocks that are safely written."""
    return [path for path in files.list_files(checkpoint, ".parquet") if not path.endswith(PENDING)]


def clear_unfinished(job: Job) -> None:
    """Delete what a killed run left half written: the files of blocks that do not count as written, then their marks.

    A block counts if its rows are those of its mark, which a kill, a worker that outlived its job, or other hands may
    have changed; stderr says how many do not. A file that no mark names is of such a worker; a mark without a file says
    nothing. Killed between two deletions, the next run does the rest.

    Raises:
        UserError: if there are rows and no record of progress at all, which is not known to be ours to delete.
    """
    pending = files.list_files(job.checkpoint, PENDING)
    marks = _marks(job)
    written: dict[str, list[str]] = {}  # by block, whose files, one or more a folder, are numbered behind a dash
    for path in files.list_files(job.output, ".parquet"):
        written.setdefault(_name(path).rpartition("-")[0], []).append(path)
    own = files.owner_of(job.checkpoint)
    changed: list[str] = []  # marks of finished blocks whose rows other hands touched
    begun = {_name(path).removesuffix(PENDING) for path in pending}
    repaired = marks.pop(REPAIRED, None)
    if written and not (pending or marks or repaired):
        raise UserError(
            f"{job.output}: holds rows of which {job.checkpoint} has no record; delete them, or write to another folder"
        )

    def is_as_marked(block: str) -> bool:
        rows = written.get(block, [])
        return bool(rows) and np.array_equal(_ids(rows, job.id_column), _ids([marks[block]], job.id_column))

    with ThreadPoolExecutor(COMPARED_AT_ONCE) as pool:  # on S3 each file is a round trip
        as_marked = dict(zip(marks, pool.map(is_as_marked, marks), strict=True))
    for block, mark in list(marks.items()):
        if not as_marked[block]:
            files.remove(marks.pop(block), own)
            if block not in begun:
                changed.append(mark)
    if changed:
        shown = f"{changed[0]} and {len(changed) - 1} more" if len(changed) > 1 else changed[0]
        print(f"{job.output}: rows that {shown} names were lost or changed and are computed again", file=sys.stderr)
    kept = _ids([repaired] if repaired else [], job.id_column)
    whole = [np.empty(0, np.int64)]
    for path in [path for block, paths in written.items() if block not in marks for path in paths]:
        ids = _ids([path], job.id_column)
        if len(kept) and _all_in(ids, kept) and not are_among(ids, np.sort(np.concatenate(whole))).any():
            whole.append(ids)
        else:
            files.remove(path, own)
    if repaired:
        _keep_found(job, repaired, kept, np.sort(np.concatenate(whole)))
    for path in pending:
        files.remove(path, own)
    for block, mark in _marks(job).items():
        if block in begun and block not in marks:  # renamed meanwhile, by a worker that lives still
            files.remove(mark, own)


def _keep_found(job: Job, mark: str, kept: npt.NDArray[np.int64], found: npt.NDArray[np.int64]) -> None:
    """Have the mark of what a repair found whole name only the rows whose files are still there."""
    if np.array_equal(kept, found):
        return
    print(f"{job.output}: {len(kept) - len(found):,} more rows were lost since and are computed again", file=sys.stderr)
    files.write_table(mark, pa.table({job.id_column: found}))


def forget_blocks(checkpoint: str, id_column: str, wanted: npt.NDArray[np.int64]) -> None:
    """Forget the blocks that hold other rows than those wanted, or rows that an earlier block holds, too.

    Their files go when the job begins again, which then computes these rows.
    """
    seen = np.empty(0, np.int64)
    for mark in committed(checkpoint):
        ids = _ids([mark], id_column)
        if _name(mark) == f"{REPAIRED}.parquet" or not (np.isin(ids, seen).any() or not np.isin(ids, wanted).all()):
            seen = np.concatenate([seen, ids])
        else:
            files.remove(mark, files.owner_of(checkpoint))


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _marks(job: Job) -> dict[str, str]:
    return {_name(path).removesuffix(".parquet"): path for path in committed(job.checkpoint)}


def _ids(paths: Sequence[str], id_column: str) -> npt.NDArray[np.int64]:
    """Read ids in ascending order; none where a file was cut off while it was written."""
    parts = [np.empty(0, np.int64)]
    for path in paths:
        try:
            rows = tables.read([path], [id_column])
        except tables.UnreadableError:
            return parts[0]
        parts.append(rows[id_column].to_numpy())
    return np.sort(np.concatenate(parts))


def _all_in(ids: npt.NDArray[np.int64], known: npt.NDArray[np.int64]) -> bool:
    """Say whether there are ids, and all of them are among the known, which ascend."""
    return bool(len(ids)) and bool(are_among(ids, known).all())


class Count:
    """Counts the rows that a job in one process has written, and prints a line now and then."""

    def __init__(self, job: Job, before: int, interval: float = 5.0) -> None:
        """Begin to count.

        Args:
            before: rows that earlier runs wrote.
            interval: seconds between lines.
        """
        self.job = job
        self.before = before
        self.first = before
        self.safe = before
        self.interval = interval
        self.began = time.monotonic()
        self.told = self.began
        self.said = -1

    def add(self, rows: int) -> None:
        """Count rows that were written, and ask now and then whether the job may go on.

        Raises:
            UserError: if it may not.
        """
        if self.safe == self.before:  # the first rows: the model's start is behind
            self.first = self.safe + rows
            self.began = time.monotonic()
        self.safe += rows
        if time.monotonic() - self.told >= self.interval:
            self.job.may_go_on()
            left = pace(self.job, self.safe, self.safe - self.first, self.began)
            print(f"{self.job.name}: {self.safe:,} of {self.job.rows:,} written{left}", flush=True)
            self.told = time.monotonic()
            self.said = self.safe

    def end(self) -> None:
        """Print how many rows are written in the end, unless the last line says so."""
        if self.safe != self.said:
            print(f"{self.job.name}: {self.safe:,} of {self.job.rows:,} written", flush=True)


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
                counted[path] = tables.count_rows(path)
        return sum(counted.values())

    def look() -> None:
        seen = -1
        start = 0  # rows of earlier runs
        since = time.monotonic()
        remarked = 0.0
        first = 0
        began = since
        while not finished.wait(interval):
            try:
                safe = safe_rows()
                if safe != seen:
                    job.may_go_on()
            except tables.UnreadableError:  # a file is still being written
                continue
            except UserError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)
                os._exit(2)  # the main thread waits inside Ray and would not notice an exception here
            except OSError:  # disk or bucket did not answer
                continue
            idle = time.monotonic() - since
            if safe != seen:
                if seen <= start:  # the first rows of this run: the engine's start and the model's are behind
                    start = safe if seen < 0 else start
                    first = safe
                    began = time.monotonic()
                print(f"{job.name}: {safe:,} of {job.rows:,} written{pace(job, safe, safe - first, began)}", flush=True)
                seen = safe
                since = time.monotonic()
                remarked = 0.0
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
