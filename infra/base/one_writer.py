"""One writer for a folder, on a disk or on S3."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from infra.base import disk_lock, files
from infra.base.errors import UserError


@contextlib.contextmanager
def writer_lock(folder: str) -> Iterator[Callable[[], None]]:
    """Hold a folder for one writer: on a disk until the process ends, on S3 until no more is heard of it.

    Yields:
        What is to be called before a result is published; raises UserError if another job took over meanwhile.

    Raises:
        UserError: if another process is writing there, or no lock can be taken.
    """
    if files.writable(folder).startswith(files.S3):
        from infra.base import (
            object_lock,  # boto3: not on the way of those who have nothing on S3
        )

        lock = object_lock.ObjectLock(folder)
        lock.take()
        for care in (lock.keep, lock.watch):
            threading.Thread(target=care, daemon=True).start()
        try:
            yield lock.check
        finally:
            lock.give_back()
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            still_held = stack.enter_context(disk_lock.held(files.join(folder, ".lock")))
        except disk_lock.HeldError as holder:
            raise UserError(f"{folder}: another job is writing here ({holder}); wait for it or stop it") from None

        def check() -> None:
            try:
                still_held()
            except disk_lock.HeldError as holder:
                raise UserError(
                    f"{folder}: the lock of this job was deleted, and another job began to write here ({holder}); "
                    "wait for that one, then give the same command again"
                ) from None

        yield check
