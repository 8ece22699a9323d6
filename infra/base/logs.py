"""What a command says beside its results: warnings and details, by level, on stderr.

Tables, progress and results are printed on stdout. A file that has something to warn of takes `logs.LOGGER`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Iterator

from infra.base import files

LOGGER = logging.getLogger("dpo")
SECRET_NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|API_KEY")
NO_SECRET_NAMES = re.compile(r"_(PATH|FILE)$")  # where a secret lies, not the secret
QUIET = {  # libraries read these when they are imported, in workers too
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "RAY_DISABLE_WORKER_LOG_PREFIX": "1",  # a worker's line reads as one of this process
}
SHORTEST_SECRET = 8  # characters; a shorter value is a switch, such as "1"


def redact(text: str) -> str:
    """Return a text without credentials: in URLs, and as the environment holds them."""

    def without(match: re.Match[str]) -> str:
        return "[URL with credentials]" if files.carries_secrets(match[0]) else match[0]

    text = re.sub(r"[^\s'\"]+://[^\s'\"]+", without, text)
    for name, value in os.environ.items():
        secret = SECRET_NAMES.search(name) and not NO_SECRET_NAMES.search(name)
        if secret and len(value) >= SHORTEST_SECRET:
            text = text.replace(value, f"[{name}]")
    return text


class _Format(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {redact(super().format(record))}"


class LastLine(io.TextIOBase):
    """Takes what is printed and keeps the last line that is not empty: the result."""

    def __init__(self) -> None:
        self.line = ""
        self._open = ""

    def write(self, text: str) -> int:
        """Take a piece of text."""
        *complete, self._open = (self._open + text).split("\n")
        for line in complete:
            self.line = line if line.strip() else self.line
        return len(text)

    @property
    def last(self) -> str:
        """Return the last line, with or without its end."""
        return self._open if self._open.strip() else self.line


def is_verbose() -> bool:
    """Say whether this command was asked for details."""
    return LOGGER.isEnabledFor(logging.DEBUG)


@contextlib.contextmanager
def at_level(verbose: bool, quiet: bool) -> Iterator[None]:
    """Log within the block: from details on if verbose, errors alone if quiet, else from warnings on.

    Unless verbose, libraries tell their errors alone: of what they warn, our own checks refuse what counts.

    If quiet, the last line printed is all that reaches stdout, and only when the block ends without an error.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Format())
    before = LOGGER.level
    LOGGER.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING)
    LOGGER.addHandler(handler)
    in_environment = {name: os.environ.get(name) for name in QUIET}
    for name, setting in QUIET.items() if not verbose else ():
        os.environ.setdefault(name, setting)
    try:
        if not quiet:
            yield
            return
        kept = LastLine()
        with contextlib.redirect_stdout(kept):
            yield
        print(kept.last, flush=True)
    finally:
        for name, value in in_environment.items():
            if value is None:
                os.environ.pop(name, None)
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)
