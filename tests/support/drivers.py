"""Drivers outside a job, forked from a process that has loaded what they import: eight seconds of CPU less for each."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.forked import become
from support.preloaded import forking


class Drivers:
    """Runs entry points as `python SCRIPT FLAGS` does, in processes of their own that join a cluster."""

    def __init__(self, surroundings: dict[str, str], log: Path) -> None:
        """Choose where they run.

        Args:
            surroundings: the environment of the cluster's clients.
            log: the file for what the last driver prints.
        """
        self._surroundings = surroundings
        self._log = log
        self._context = forking()

    def run(self, script: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run an entry point to its end; its errors stand where its output does, as a job's do."""
        self._log.write_bytes(b"")
        process = self._context.Process(target=_run_script, args=(script, flags, str(self._log)))
        with pytest.MonkeyPatch.context() as patched:
            for name, value in self._surroundings.items():  # the first start gives them to the process that forks
                patched.setenv(name, value)
            process.start()
        process.join(600)
        if process.is_alive():
            process.kill()
            process.join()
        return subprocess.CompletedProcess([script, *flags], process.exitcode or 0, self._log.read_text(), "")


def _run_script(script: str, flags: Sequence[str], log: str) -> None:
    """Become `python SCRIPT FLAGS > LOG 2>&1`, in the fork."""
    with open(log, "ab", buffering=0) as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    become(script, flags)
