"""SIGTERM, or Ctrl-C, as a request to end where nothing is lost; the work looks at it between two of its parts."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

EXIT = 128 + signal.SIGTERM  # of a process ended by SIGTERM, as shells count
INTERRUPTED = 128 + signal.SIGINT  # of one that Ctrl-C ended at once

_asked = threading.Event()


def is_asked() -> bool:
    """Say whether this process was asked to end."""
    return _asked.is_set()


def ask() -> None:
    """Ask this process to end, as SIGTERM does."""
    _asked.set()


def answer() -> None:
    """Forget the request; whoever ends the work because of it calls this, and nobody else."""
    _asked.clear()


def listen() -> None:
    """Take SIGTERM as a request to end after the part under way; only a process's main thread may call this."""
    signal.signal(signal.SIGTERM, _note)


@contextlib.contextmanager
def listening(request: Callable[[], None] = ask) -> Iterator[None]:
    """Listen for SIGTERM and Ctrl-C inside the block, if this is the main thread; elsewhere its owner called listen.

    A request that the block does not act on stays for the next such block. A second Ctrl-C is Python's own again, also
    in that next block. Where somebody else takes Ctrl-C, or nobody is to, as in a job that a shell runs in the
    background, that stays so.

    Args:
        request: what asks for the end; by default it asks this process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    takes_keys = not is_asked() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGTERM, lambda *_: request())
    if takes_keys:
        signal.signal(signal.SIGINT, _key_taker(request))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if takes_keys:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _note(_signal: int, _frame: FrameType | None) -> None:
    ask()


def _key_taker(request: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
    """Return a handler of Ctrl-C that takes the first as a request, and raises KeyboardInterrupt at the second.

    It counts, as the handler that a first Ctrl-C leaves may be put back: Ray's DeferSigint restores what it met.
    """
    taken: list[int] = []

    def take(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if taken:
            signal.default_int_handler(number, frame)
        taken.append(number)
        # Unbuffered: whoever was interrupted may be in the middle of a print.
        os.write(2, b"stopping after the work in hand; Ctrl-C again ends at once\n")
        request()

    return take
