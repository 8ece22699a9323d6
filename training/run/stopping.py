"""Ending early on request: SIGTERM to any worker, or a note that the driver leaves in the run folder when it is asked.

The step under way is finished, its checkpoint written, and Stopped is raised on every rank; the same command goes on
from there.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist

from infra.base import disk_errors, files, termination
from infra.base.errors import UserError

STOP = "stop.json"
LOOK_EVERY = 5.0  # seconds between looks at S3


class Stopped(Exception):
    """The run was asked to end and has a checkpoint of its last step."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped on request after step {step}; the same command goes on from there")


@contextlib.contextmanager
def passing_on(output: str | Path) -> Iterator[None]:
    """Turn SIGTERM, or a first Ctrl-C, inside the block into a note in the run folder, which asks the workers to end.

    The run folder may be on S3. If the note cannot be left there, stderr says so and the run goes on.
    """
    with termination.listening(lambda: _leave_note(_note_of(output))):
        yield


def _leave_note(path: str) -> None:
    try:
        files.write_json(path, {"reason": "asked to end"})
    except OSError as error:
        again = f"send SIGTERM to process {os.getpid()}"  # a second Ctrl-C would end without a checkpoint
        message = f"{path}: the request could not be passed on to the workers ({disk_errors.reason(error)}); {again}"
        print(message, file=sys.stderr, flush=True)


def _note_of(output: str | Path) -> str:
    return files.join(str(output), STOP)


def asked_by_driver(output: str | Path) -> bool:
    """Say whether the driver asked the workers to end."""
    return files.exists(_note_of(output))


@contextlib.contextmanager
def looking(output: str) -> Iterator[None]:
    """Look for the driver's note on S3 inside the block, every few seconds, in a thread: no step waits for S3.

    A look that S3 does not answer changes nothing; the next one may. On a disk each step looks for itself.
    """
    if not files.is_remote(output):
        yield
        return
    ended = threading.Event()

    def look() -> None:
        printed = ""  # each failure once, until S3 answers again
        while not ended.is_set():
            try:
                if asked_by_driver(output) and not ended.is_set():
                    termination.ask()
                printed = ""
            except (UserError, OSError) as error:  # a file of credentials, too, while it is replaced
                message = f"{error}; nobody can ask this run to stop meanwhile"
                if message != printed:
                    print(message, file=sys.stderr, flush=True)
                    printed = message
            ended.wait(LOOK_EVERY)

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        ended.set()  # a look under way may take minutes, and is not waited for


def agreed(output: str | Path, rank: int, world_size: int, device: torch.device) -> bool:
    """Say, alike on every rank, whether any of them was asked to end; rank 0 alone looks for the driver's note."""
    asked = termination.is_asked() or (rank == 0 and not files.is_remote(str(output)) and asked_by_driver(output))
    if world_size == 1:
        return asked
    any_asked = torch.tensor([float(asked)], device=device)
    dist.all_reduce(any_asked, op=dist.ReduceOp.MAX)
    return bool(any_asked.item())
