"""Locks on S3 whose clock a test moves."""

from __future__ import annotations

from collections.abc import Callable

from infra.base.object_lock import ObjectLock


class Clock:
    """Goes on where somebody waits, and then lets something happen."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.now, self.meanwhile = 0.0, meanwhile

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


def taker(folder: str, meanwhile: Callable[[], object] = lambda: None) -> tuple[ObjectLock, Clock]:
    """Return a lock not taken yet, and its clock."""
    clock = Clock(meanwhile)
    return ObjectLock(folder, clock, clock.wait), clock


def taken(folder: str, holder: str = "process 1 on one") -> ObjectLock:
    """Return a lock that a job has."""
    lock, _ = taker(folder)
    lock._holder = holder
    lock.take()
    return lock
