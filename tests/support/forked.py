"""Commands in forks of a process that has loaded what they import: eight seconds of CPU less for each."""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from infra.base.files import ROOT
from support.preloaded import forking


class Forked:
    """A command as `python SCRIPT FLAGS` runs it, in a process of its own; it has what tests ask of a Popen."""

    def __init__(self, script: str, flags: Sequence[str], folder: Path, surroundings: Mapping[str, str]) -> None:
        """Begin the command.

        Args:
            folder: for the files with what it prints, anew.
            surroundings: its environment.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._printed = [folder / name for name in ("stdout", "stderr")]
        given = (script, list(flags), list(map(str, self._printed)), dict(surroundings))
        self._process = forking().Process(target=_run_script, args=given)
        self._process.start()

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code; a command that takes longer is killed."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    @property
    def stdout(self) -> str:
        """What it has printed."""
        return self._printed[0].read_text()

    @property
    def stderr(self) -> str:
        """What it has said of errors."""
        return self._printed[1].read_text()


def become(script: str, flags: Sequence[str]) -> None:
    """Run a script as the main one of this process, to its end."""
    os.chdir(ROOT)
    sys.argv = [script, *flags]
    sys.path.insert(0, str(ROOT / Path(script).parent))
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a fork of multiprocessing's ends without them; Ray's says goodbye to the cluster


def _run_script(script: str, flags: Sequence[str], printed: Sequence[str], surroundings: Mapping[str, str]) -> None:
    """Become `python SCRIPT FLAGS`, in the fork."""
    for number, path in enumerate(printed, start=1):
        with open(path, "wb", buffering=0) as out:
            os.dup2(out.fileno(), number)
    os.environ.clear()  # the process that forks has that of its own start
    os.environ.update(surroundings)
    torch.set_num_threads(1)
    become(script, flags)
