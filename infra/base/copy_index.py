"""Whether a local copy still holds what was copied: sizes each time, all bytes where anything may have touched them.

A file's inode, size and times of change stay as they were noted unless somebody writes it; a power cut, which can turn
written bytes to zeros under the same times, comes with another boot. Hashing 55 GB at each start would take a minute.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from infra.base import files, json_text

INDEX = "complete"  # written last: bytes and sha256 by name
CHECKED = "checked"  # how the files stood when their hashes were last found right
OWN = (INDEX, CHECKED)
BOOT = Path("/proc/sys/kernel/random/boot_id")


def write(folder: Path) -> None:
    """Flush a filled folder, and then vouch for what it holds."""
    files.flush_below(str(folder))
    index = {str(path.relative_to(folder)): _describe(path) for path in _files(folder)}
    files.write_json(str(folder / INDEX), index)
    _note_checked(folder, list(index))


def is_begun_only(folder: Path) -> bool:
    """Say whether a folder was never vouched for: it is absent, whoever filled it was killed, or its list is empty.

    Versions before 0.2.0 left an empty list. No later one takes such a copy.
    """
    index = folder / INDEX
    return not index.exists() or not index.stat().st_size


def damage(folder: Path) -> str | None:
    """Say what is wrong with a copy; None where all is right, and then its files count as used just now.

    Cleaners of temporary folders go by the time of the last use, and a mapped file's time does not change.
    """
    try:
        index = json_text.parse((folder / INDEX).read_bytes())
        expected = {name: (about["bytes"], about["sha256"]) for name, about in index.items()}
    except (ValueError, AttributeError, KeyError, TypeError):  # torn, of NULs, or empty as before there was an index
        return "it has no whole list of its files"
    for name, (size, _) in expected.items():
        try:
            status = (folder / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is gone"
        if not stat.S_ISREG(status.st_mode):
            return f"{name} is no file"
        if status.st_size != size:
            return f"{name} has {status.st_size:,} bytes instead of {size:,}"
    if not _stands_as_checked(folder, list(expected)):
        for name, (_, sha256) in expected.items():
            if files.sha256(str(folder / name)) != sha256:
                return f"{name} holds other bytes than were copied"
    for name in (*expected, INDEX):
        os.utime(folder / name)
    _note_checked(folder, list(expected))
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in OWN)


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": files.sha256(str(path))}


def _note_checked(folder: Path, names: list[str]) -> None:
    files.write_json(str(folder / CHECKED), _standing(folder, names))


def _stands_as_checked(folder: Path, names: list[str]) -> bool:
    try:
        noted = json_text.parse((folder / CHECKED).read_bytes())
    except (OSError, ValueError):
        return False
    return BOOT.exists() and noted == _standing(folder, names)


def _standing(folder: Path, names: list[str]) -> dict[str, Any]:
    """Describe what changes when a file is written, or the machine starts anew."""
    stamps = {}
    for name in names:
        status = (folder / name).stat()
        stamps[name] = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    return {"boot": BOOT.read_text().strip() if BOOT.exists() else "", "files": stamps}
