"""SIGTERM as a request to end where nothing is lost, which the work looks at between two of its parts."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

EXIT = 128 + signal.SIGTERM  # of a process ended by SIGTERM, as shells count

_asked = threading.Event()


def is_asked() -> bool:
    """Say whether this process was asked to end."""
    return _asked.is_set()


def ask() -> None:
    """Ask this process to end, as SIGTERM does."""
    _asked.set()


def listen() -> None:
    """Take SIGTERM as a request to end after the part under way; only a process's main thread may call this."""
    _asked.clear()
    signal.signal(signal.SIGTERM, _note)


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Listen for SIGTERM inside the block, if this is the main thread; elsewhere whoever owns it has called listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    listen()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _note(_signal: int, _frame: FrameType | None) -> None:
    ask()
