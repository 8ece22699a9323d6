"""The trainer's processes on the session's cluster."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

SCRIPT = "training/train_dpo.py"


def train_workers(surroundings: dict[str, str]) -> set[int]:
    """Find the processes of this session's cluster that train; other clusters on the machine are left alone."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        if any("RayTrainWorker" in part for part in process.info["cmdline"] or []):
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RAY_AUTH_TOKEN_PATH") == surroundings["RAY_AUTH_TOKEN_PATH"]:
                    found.add(process.pid)
    return found


def driver(output: Path) -> int:
    """Find the process of a run's driver."""
    for process in psutil.process_iter(["cmdline"]):
        told = process.info["cmdline"] or []
        if str(output) in told and told[1:2] == [SCRIPT]:
            return process.pid
    raise AssertionError("no driver")
