"""A command on a Ray cluster of its own, as a user gives it, and all processes that it starts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import psutil

from infra.base.files import ROOT

MARK = "DPO_TEST_COMMAND"  # in the environment of the command, and so of all that it starts
PATIENCE = 120.0  # seconds


class OnOwnCluster:
    """A command that names no cluster; it leads a process group, as one that a shell begins."""

    def __init__(self, script: str, flags: Sequence[str], folder: Path) -> None:
        """Begin the command.

        Args:
            folder: for the files with what it prints, and for Ray's.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.mark = uuid.uuid4().hex
        self._printed = [folder / name for name in ("stdout", "stderr")]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        own = {"RAY_USAGE_STATS_ENABLED": "0", MARK: self.mark}
        with self._printed[0].open("wb") as out, self._printed[1].open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, script, *flags],
                cwd=ROOT,
                env=kept | own,
                stdout=out,
                stderr=errors,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def end(self) -> tuple[int, str]:
        """Wait until nothing that it started runs any more; return its exit code and what it has said of errors."""
        deadline = time.monotonic() + PATIENCE
        try:
            code = self._process.wait(PATIENCE)
            while self.processes():
                assert time.monotonic() < deadline, [process.cmdline() for process in self.processes()]
                time.sleep(0.2)
        finally:
            for process in self.processes():
                with contextlib.suppress(psutil.Error):
                    process.kill()
        return code, self._printed[1].read_text()

    def send(self, number: signal.Signals, to_all: bool = False) -> None:
        """Send a signal to the command, or to all of its group as a terminal does."""
        if to_all:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)

    def kill_until_it_ends(self, name: str) -> None:
        """Kill its processes that have a name, those that replace them too, until the command has ended."""
        deadline = time.monotonic() + PATIENCE
        while self.poll() is None:
            assert time.monotonic() < deadline, f"{name} was killed and the command goes on"
            for process in self.processes(name):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            time.sleep(0.01)

    def processes(self, name: str = "") -> list[psutil.Process]:
        """List the processes of the command that run; name: a part of what they run, all by default."""
        running = []
        for process in psutil.process_iter(["cmdline"]):
            program = next(iter(process.info["cmdline"] or []), "")
            if program and name in program:
                with contextlib.suppress(psutil.Error):
                    if process.environ().get(MARK) == self.mark:
                        running.append(process)
        return running
