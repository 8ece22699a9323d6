"""The Ray cluster that `make cluster` started in this checkout, by the note that it leaves; without Ray."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from infra.base import files
from infra.base.errors import UserError

if TYPE_CHECKING:
    import psutil

PID_FILE = "cluster.json"  # in runs/: the process of the cluster
TOKEN_FILE = "ray.token"  # noqa: S105  (the name of a file beside it)
ADDRESS = "127.0.0.1:6379"  # Ray's own default


def identity(process: psutil.Process) -> dict[str, float]:
    """Return what distinguishes a process from a later one of the same id.

    Its start is in seconds after boot, as the clock may be set meanwhile.
    """
    import psutil

    return {"pid": process.pid, "after_boot": process.create_time() - psutil.boot_time()}


def recorded(file: Path) -> psutil.Process | None:
    """Return the running process that a note names; None where it ended, even if its id is in use again."""
    if not file.exists():
        return None
    import psutil  # only where there is a note

    try:
        noted = files.read_json(str(file))
        process = psutil.Process(int(noted["pid"]))
        # An id is not used again within seconds.
        same = abs(identity(process)["after_boot"] - noted.get("after_boot", math.inf)) < 5
        alive = same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, UserError, KeyError, TypeError, ValueError):  # it ended, or half a note is left
        return None
    return process if alive else None


def runs() -> Path | None:
    """Return the folder of the note; None where this copy of the code has none, as under ray's --working-dir."""
    try:
        with files.counting_from(None):
            return Path(files.resolve("runs"))
    except UserError:
        return None


def is_running() -> bool:
    """Say whether this checkout's cluster runs."""
    folder = runs()
    return folder is not None and recorded(folder / PID_FILE) is not None
