"""The last line of a command: what there is now, its size, and the command that goes on from there."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import entry_points
from pathlib import Path

from infra.base import files

_IS_STEP: ContextVar[bool] = ContextVar("is_step", default=False)
CONSOLE = "dpo-"  # what the names of the console scripts begin with


@contextmanager
def of_another_command() -> Iterator[None]:
    """Let commands that run inside the block, as steps of another one, name no next command: that one goes on."""
    before = _IS_STEP.set(True)
    try:
        yield
    finally:
        _IS_STEP.reset(before)


def last_line(place: str, result: str, then: str) -> str:
    """Say in one line what a folder holds, how large it is, and what comes next.

    Args:
        then: the next command, as `command` gives it.
    """
    ending = "" if _IS_STEP.get() else f"; next: {then}"
    return f"{place}: {result}, {size(place):,} bytes{ending}"


def size(folder: str) -> int:
    """Return the bytes of the files below a folder, without those of unfinished jobs."""
    return sum(length for name, length, _ in files.stamps(folder) if not name.startswith("."))


def command(script: str, *flags: str) -> str:
    """Return a command line that runs a command as this one was run: as a console script, or by its path.

    Args:
        script: its file, counted from the repository's root.
    """
    return shlex.join([*_words(script), *flags])


def _words(script: str) -> list[str]:
    if Path(sys.argv[0]).name.startswith(CONSOLE):
        function = f"{script.removesuffix('.py').replace('/', '.')}:command"
        named = [entry.name for entry in entry_points(group="console_scripts") if entry.value == function]
        if named:
            return named[:1]
    here = files.local("here").parent
    return ["python", script if here == files.ROOT else str(files.ROOT / script)]
