"""Where a cluster of the command's own has Ray's files: in a folder that a later command removes.

Ray itself puts them into /tmp/ray for good: the logs of each command, and after a kill what did not fit into memory.
A folder is locked while its command runs, however that ends; so what is unlocked is nobody's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "dpo-ray-"
LONGEST = 24  # bytes of the path beneath: Ray's sockets add 83, and a socket's path has at most 107
LOCK = "lock"
RAY = "r"  # the folder's part that Ray opens to everybody; the folder itself is its user's alone


def make() -> str | None:
    """Make a folder for Ray's files, this process's until it ends, and remove those of processes that have ended.

    It lies where Ray's own would: in RAY_TMPDIR, or TMPDIR, or /tmp. Where that path is too long for a folder more,
    there is none, and Ray takes its own.
    """
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    if len(os.fsencode(base)) > LONGEST:
        return None
    base.mkdir(parents=True, exist_ok=True)
    for folder in base.glob(f"{PREFIX}*"):
        _remove_ended(folder)
    begun = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=base))  # not yet by a name that others look for
    lock = os.open(begun / LOCK, os.O_RDWR | os.O_CREAT, 0o600)  # open until the process ends
    with contextlib.suppress(OSError):  # a disk without flock, where no folder is removed
        fcntl.flock(lock, fcntl.LOCK_EX)
    return str(begun.rename(base / begun.name.removeprefix(".")) / RAY)


def _remove_ended(folder: Path) -> None:
    """Remove a folder of this user's whose process has ended."""
    with contextlib.suppress(OSError):  # another process removes it too, or a worker still writes there
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (folder / RAY).exists():
                shutil.rmtree(folder / RAY)  # first: as long as the lock is there, a later command tries again
            shutil.rmtree(folder)
        finally:
            os.close(lock)
