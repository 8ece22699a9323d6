"""Checkpoints written beside the training: one job in flight, its error raised at the next step."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
from safetensors import SafetensorError

from infra.base import disk_errors
from infra.base.errors import UserError


class CheckpointWriter:
    """Runs one writing job at a time on a thread of its own.

    A job must own what it writes: the optimizer updates weights in place meanwhile. An error of a job is raised by the
    next call of any method, once.
    """

    def __init__(self, output: str | Path, world_size: int = 1) -> None:
        self.output = output  # the run folder, for messages
        # Jobs of all ranks talk to one another while the main threads do, so they need a group of their own.
        self.workers: Any = dist.new_group(backend="gloo") if world_size > 1 else None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Start a job; the one before must have been waited for."""
        assert self._pending is None
        self._pending = self._pool.submit(job)

    def check(self) -> None:
        """Raise the error of a job that has failed, without waiting for one that still runs.

        Raises:
            UserError: if disk or S3 refused the checkpoint.
        """
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the job is done.

        Raises:
            UserError: if disk or S3 refused the checkpoint.
        """
        pending = self._pending
        if pending is None:
            return
        self._pending = None  # an error is raised once
        try:
            pending.result()
        except (OSError, SafetensorError) as error:
            why = disk_errors.reason(error) if isinstance(error, OSError) else error
            raise UserError(
                f"{self.output}: a checkpoint could not be written ({why}); the last complete one stands"
            ) from error

    def close(self) -> None:
        """Wait for the job, if one runs, and end the thread."""
        self.wait()
        self._pool.shutdown()
