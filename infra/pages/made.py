"""How a page was made: date, durations, versions, commit and command."""

from __future__ import annotations

import datetime
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from infra.base.checkout import commit
from infra.base.flags import read_flags

PACKAGES = ("diffusion-dpo", "torch", "diffusers", "transformers", "ray", "numpy")


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a page says of its own making."""

    date: str  # UTC
    command: str
    commit: str | None  # None outside a git checkout
    versions: Mapping[str, str]  # by package, of those that are installed
    durations: Mapping[str, str] = field(default_factory=dict)  # by what took so long


def describe(command: str, seconds: Mapping[str, float | None] | None = None) -> Made:
    """Describe a page that is made now.

    Args:
        command: the line that makes it again.
        seconds: by what took so long; None where it is unknown, which the page leaves out.
    """
    # A worker that has the code by --working-dir alone has no package of ours; what is not installed has no version.
    there = {one.name: one.version for name in PACKAGES for one in metadata.distributions(name=name)}
    versions = {"python": platform.python_version()} | {name: there[name] for name in PACKAGES if name in there}
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


def command_of(script: str, settings: Any, always: Sequence[str] = ()) -> str:
    """Write the command that has these settings, without a preset: all flags that are not as by default.

    Args:
        settings: a dataclass, as infra/base/flags.py reads it.
        always: names of flags to write whatever their default becomes.
    """
    words = ["python", script]
    for default, flag in zip(read_flags(type(settings)), read_flags(type(settings), settings), strict=True):
        value = flag.default
        if not flag.shown or (value == default.default and flag.name not in always):
            continue
        if isinstance(value, bool):
            words.append(flag.dashed if value else flag.dashed.replace("--", "--no-", 1))
        else:
            words += [flag.dashed, *map(str, value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def duration(seconds: float) -> str:
    """Write seconds as a reader says them: 42 s, 7 min, 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"
