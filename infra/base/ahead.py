"""Imports for a later part of a command, on another core while this part computes.

Where two threads import modules that import one another, Python hands out half of a module. So what imports next waits
first, and a part that computes begins anew.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

Load = Callable[[], object]


class _Ahead:
    wanted: list[Load] = []  # noqa: RUF012  (of the process)
    thread: threading.Thread | None = None


def later(load: Load) -> None:
    """Note what a later part imports."""
    _Ahead.wanted.append(load)


def begin() -> None:
    """Begin to import what is noted, where a core is idle; what fails to will say so when it is needed."""
    wait()
    if _Ahead.wanted and len(os.sched_getaffinity(0)) > 1:
        _Ahead.thread = threading.Thread(target=_load, args=(_Ahead.wanted,), daemon=True)
        _Ahead.wanted = []
        _Ahead.thread.start()


def wait() -> None:
    """Wait until nothing is imported any more."""
    if _Ahead.thread is not None:
        _Ahead.thread.join()
        _Ahead.thread = None


def _load(wanted: list[Load]) -> None:
    for load in wanted:
        with contextlib.suppress(Exception):
            load()
