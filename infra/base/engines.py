"""Which engine a command line asks for: this process, or a Ray cluster; pipelines/engine/choose.py decides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal

Name = Literal["local", "ray"]

_asked: ContextVar[Name | None] = ContextVar("engine", default=None)


def asked() -> Name | None:
    """Return the engine that --engine names; None where the flag is not given."""
    return _asked.get()


@contextlib.contextmanager
def asking(name: Name | None) -> Iterator[None]:
    """Ask for an engine inside the block; None leaves the choice to the commands."""
    before = _asked.set(name)
    try:
        yield
    finally:
        _asked.reset(before)
