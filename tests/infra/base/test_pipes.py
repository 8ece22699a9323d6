"""Whoever reads what a command prints may leave early: no traceback, and the command's own exit code."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from infra.base import pipes
from infra.base.files import ROOT


@contextlib.contextmanager
def unread() -> Iterator[None]:
    """Let standard output lead into a pipe that nobody reads."""
    read, written = os.pipe()
    os.close(read)
    with open(written, "w") as output, contextlib.redirect_stdout(output):
        yield


def test_help_whose_reader_left_writes_no_traceback() -> None:
    words = [sys.executable, str(ROOT / "infra" / "plan.py"), "--help"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == pipes.LEFT


def test_work_that_can_print_no_more_ends_as_if_by_sigpipe() -> None:
    with unread():
        with pytest.raises(SystemExit) as stopped, pipes.ending_quietly():
            print("a line", flush=True)
        print("goes nowhere", flush=True)
    assert stopped.value.code == pipes.LEFT == 128 + 13


def test_a_command_begun_without_an_output_ends_as_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as Python has it after `command >&-`
    with pytest.raises(SystemExit) as stopped, pipes.ending_quietly():
        raise SystemExit(2)
    assert stopped.value.code == 2


def test_a_refusal_keeps_its_code_where_nobody_reads() -> None:
    with unread():
        print("a line")
        with pytest.raises(SystemExit) as stopped, pipes.ending_quietly():
            raise SystemExit(2)
    assert stopped.value.code == 2


def test_the_broken_pipe_of_a_connection_is_an_error_as_before() -> None:
    with pytest.raises(BrokenPipeError), pipes.ending_quietly():
        raise BrokenPipeError(32, "Broken pipe")
