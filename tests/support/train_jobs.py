"""The trainer's processes on the session's cluster."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

import psutil

from infra.base.files import ROOT

SCRIPT = "training/train_dpo.py"


def begin(
    flags: list[str], output: Path, surroundings: dict[str, str], on_s3: str | None = None, **variables: str
) -> subprocess.Popen[bytes]:
    """Submit a run, with environment variables of its own, and go on; its words go beside its folder.

    Args:
        on_s3: where the run folder is, if not there.
    """
    own = ["--runtime-env-json", json.dumps({"env_vars": variables})] if variables else []
    command = ["ray", "job", "submit", *own, "--", "python", SCRIPT, *flags, "--output", on_s3 or str(output)]
    with output.with_suffix(".log").open("ab") as out:
        return subprocess.Popen(command, cwd=ROOT, env=surroundings, stdout=out, stderr=out)


def steps(output: Path) -> int:
    """Count the steps that a run has noted."""
    path = output / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def train_workers(surroundings: dict[str, str]) -> set[int]:
    """Find the processes of this session's cluster that train; other clusters on the machine are left alone."""
    workers = set()
    for process in psutil.process_iter(["cmdline"]):
        if any("RayTrainWorker" in part for part in process.info["cmdline"] or []):
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RAY_AUTH_TOKEN_PATH") == surroundings["RAY_AUTH_TOKEN_PATH"]:
                    workers.add(process.pid)
    return workers


def driver(output: Path) -> int:
    """Find the process of a run's driver."""
    for process in psutil.process_iter(["cmdline"]):
        command_line = process.info["cmdline"] or []
        if str(output) in command_line and command_line[1:2] == [SCRIPT]:
            return process.pid
    raise AssertionError("no driver")
