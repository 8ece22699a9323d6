"""Keeps what Ray says of itself off the terminal, unless --verbose asks for it; what ends a job is raised anyway."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import TextIO

from infra.base import logs

STDERR = 2
OF_CORE = re.compile(r"\[\d{4}-\d\d-\d\d [\d:,]+ [DIWE] \d+ \d+\] [\w./]+\.cc:\d+: ")  # how Ray's core begins a line


@contextlib.contextmanager
def about_itself() -> Iterator[None]:
    """Leave out warnings of Ray's modules within the block, and the lines that its core writes on stderr."""
    if logs.is_verbose():
        yield
        return
    with warnings.catch_warnings(), without_core():
        warnings.filterwarnings("ignore", module=r"ray\.")
        yield


@contextlib.contextmanager
def without_core() -> Iterator[None]:
    """Leave out the lines of Ray's core: its own on the process's stderr, past Python's, and those of its workers.

    What Python prints goes to the terminal directly meanwhile, so nothing of it is lost where a process ends at once.
    """
    sys.stderr.flush()
    terminal = os.dup(STDERR)
    reader, writer = os.pipe()
    os.dup2(writer, STDERR)
    os.close(writer)
    passing = threading.Thread(target=_pass_on, args=(reader, terminal), daemon=True)
    passing.start()
    try:
        with (
            open(terminal, "w", buffering=1, closefd=False) as direct,
            contextlib.redirect_stderr(_Chosen(direct) if _is_process_s(sys.stderr) else sys.stderr),
        ):
            yield
    finally:
        os.dup2(terminal, STDERR)  # which closes the pipe, but for what a child of this process may hold
        passing.join(timeout=1)
        if not passing.is_alive():
            os.close(terminal)


class _Chosen(io.TextIOBase):
    """Writes lines on a stream, without those of Ray's core."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._open = ""  # a line that has no end yet

    def write(self, text: str) -> int:
        """Take a piece of text."""
        *complete, self._open = (self._open + text).split("\n")
        for line in complete:
            if not OF_CORE.match(line):
                self._stream.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        """Write what there is, also of a line without an end."""
        if self._open and not OF_CORE.match(self._open):
            self._stream.write(self._open)
            self._open = ""
        self._stream.flush()


def _is_process_s(stream: object) -> bool:
    try:
        return stream.fileno() == STDERR  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):  # somebody's stand-in
        return False


def _pass_on(reader: int, terminal: int) -> None:
    """Write on what is read, line by line, without those of Ray's core."""
    with open(reader, "rb") as lines:
        for line in lines:
            if not OF_CORE.match(line.decode(errors="replace")):
                os.write(terminal, line)
