"""A reader of standard output that leaves early, as `head` does, ends a command without a traceback."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator

LEFT = 141  # the exit code that a shell gives to a process that SIGPIPE ended


@contextlib.contextmanager
def ending_quietly() -> Iterator[None]:
    """Let a block end as it would, but for what it can't print any more: Python would write a traceback about that.

    Raises:
        SystemExit: with 141, if the block had not ended yet when its reader left.
    """
    try:
        yield
    except BrokenPipeError:
        if not _has_reader_left():  # another pipe, such as that of a connection
            raise
        raise SystemExit(LEFT) from None
    finally:
        with contextlib.suppress(BrokenPipeError, AttributeError):  # none at all, as of a process begun without it
            sys.stdout.flush()
        _has_reader_left()


def _has_reader_left() -> bool:
    """Say whether nobody reads standard output any more; then it leads nowhere from now on."""
    try:
        output = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # no file: a test's, or a notebook's
        return False
    poll = select.poll()
    poll.register(output, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)
    os.close(nowhere)
    return True
