"""Run commands one after the other, the jobs among them on a Ray cluster of their own.

A step is a title and a command. A command that finished before returns at once when it runs again, so the whole list
can be run again after a failure.
"""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from infra.base import files
from infra.base.errors import UserError
from infra.base.files import ROOT
from infra.local import cluster

COPIES = ("--workers", "--samplers", "--encoders", "--copies")  # flags that ask for several of something
SIDE_BY_SIDE = {"pipelines/sweep.py"}  # runs its trials so whatever its flags
OF_SUBMIT = ("INFO ", "SUCC ", "WebSocket", "Running entrypoint")  # in lines that `ray job submit` prints of itself
STEPS_FILE = "steps.json"
Step = tuple[str, list[str]]  # title and command


def needs_ray(command: list[str]) -> bool:
    """Return whether a command is a job for the cluster; one copy of a model needs none, nor do quick commands."""
    asked = [int(value) for flag, value in itertools.pairwise(command) if flag in COPIES]
    return command[1] in SIDE_BY_SIDE or max(asked, default=1) > 1


def run_folder(output: str) -> Path:
    """Return the folder of a run, which also holds the log of the run's cluster.

    Raises:
        UserError: if the folder is not on a disk.
    """
    path = files.resolve(output)
    if files.is_remote(path):
        raise UserError(f"--output {output}: a cluster of this machine's own keeps its log there; give a local folder")
    return Path(path)


def run_steps(steps: list[Step], output: str, again: str) -> None:
    """Run steps one after the other, and print where the report lies; those of several copies on a Ray cluster.

    Args:
        output: folder of the report and of the cluster's log.
        again: command to name where a step fails.

    Raises:
        UserError: naming the step that failed.
    """
    run = run_folder(output)
    started = time.monotonic()
    print("starting a local Ray cluster", flush=True)
    with cluster.running(run / "cluster.log") as surroundings:
        alone = {name: value for name, value in surroundings.items() if name != "RAY_ADDRESS"}
        for number, (title, command) in enumerate(steps, 1):
            submitted = ["ray", "job", "submit", "--", *command] if needs_ray(command) else command
            clock = f"{time.monotonic() - started:.0f} s"
            print(f"\n[{number}/{len(steps)}, {clock}] {title}\n$ {' '.join(submitted)}", flush=True)
            begun = time.monotonic()
            first = note_step(run, title, command, None)
            if run_step(submitted, surroundings if needs_ray(command) else alone):
                raise UserError(f"step {number} ({title}) failed; run {again} again to go on from there")
            if first:
                note_step(run, title, command, time.monotonic() - begun)
    print(f"\ndone in {time.monotonic() - started:.0f} s; open {run / 'report.html'}")


def note_step(run: Path, title: str, command: list[str], seconds: float | None) -> bool:
    """Note in RUN/steps.json that a step begins, or its seconds; return whether it begins for the first time.

    A step that finished before keeps its seconds of that time. One that was interrupted has none, as the seconds of its
    last attempt would leave out the earlier ones.
    """
    path = str(run / STEPS_FILE)
    noted = files.read_json(path) if files.exists(path) else []
    first = command not in [step["command"] for step in noted]
    if first or seconds is not None:
        others = [step for step in noted if step["command"] != command]
        files.write_json(path, [*others, {"title": title, "command": command, "seconds": seconds}])
    return first


def run_step(command: list[str], surroundings: Mapping[str, str]) -> int:
    """Run one step, show its output, and return its exit code."""
    with subprocess.Popen(
        command, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as job:
        assert job.stdout is not None
        for line in job.stdout:
            if _worth_showing(line):
                print(f"  {line}", end="", flush=True)
    return job.returncode


def _worth_showing(line: str) -> bool:
    """Return whether a line is the command's own."""
    return bool(line.strip()) and not any(word in line for word in OF_SUBMIT)
