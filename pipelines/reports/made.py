"""How a page was made: date, durations, versions, commit and command; and the judges' names with their weights."""

from __future__ import annotations

import datetime
import platform
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from infra.base import files
from infra.base.checkout import commit
from pipelines.judging import score_files
from pipelines.reports.feedback_hypotheses import SCORERS
from training.checkpoints.run_folder import STEPS, read_notes

PACKAGES = ("diffusion-dpo", "torch", "diffusers", "transformers", "ray", "numpy")


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a page says of its own making."""

    date: str  # UTC
    command: str
    commit: str | None  # None outside a git checkout
    versions: Mapping[str, str]
    durations: Mapping[str, str] = field(default_factory=dict)  # by what took so long


def describe(command: str, seconds: Mapping[str, float | None] | None = None) -> Made:
    """Describe a page that is made now.

    Args:
        command: the line that makes it again.
        seconds: by what took so long; None where it is unknown, which the page leaves out.
    """
    versions = {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}
    known = {name: value for name, value in (seconds or {}).items() if value is not None}
    return Made(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command,
        commit=commit(),
        versions=versions,
        durations={name: duration(value) for name, value in known.items()},
    )


def command_line(script: str, flags: Mapping[str, Any]) -> str:
    """Write the command that has these settings; a flag without a value is left out."""
    words = ["python", script]
    for name, value in flags.items():
        if value is not None:
            values = value if isinstance(value, list | tuple) else (value,)
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join(words)


def duration(seconds: float) -> str:
    """Write seconds as a reader says them: 42 s, 7 min, 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def training_seconds(run: str) -> float | None:
    """Add up the seconds of a run's steps; None where the notes hold no times."""
    rows = read_notes(files.resolve(run), STEPS)
    if not rows or any("seconds" not in row for row in rows):
        return None
    return float(sum(row["seconds"] for row in rows))


def judge_titles(folder: str, judges: Iterable[str]) -> dict[str, str]:
    """Name judges with the weights by which they scored a folder of images: by name, for example "clip (published)"."""
    return {name: _title(folder, name) for name in judges}


def _title(folder: str, name: str) -> str:
    if name not in SCORERS:  # these four alone have weights to choose
        return name
    flags = score_files.read_manifest(folder, name).get("config", {}).get("weights", [])
    single = dict(flag.split("=", 1) for flag in flags if "=" in flag)
    for_all = [flag for flag in flags if "=" not in flag]
    weights = single.get(name, for_all[0] if for_all else "world")
    return f"{name} ({'embedded world' if weights == 'world' else weights.rstrip('/').rpartition('/')[2]})"
