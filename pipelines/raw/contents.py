"""What a source's files hold, noted when an encoding begins and compared by what goes on from it or labels it.

Pair ids do not depend on images, so images that change under the same ids would mix old and new latents unseen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow.fs as pafs

from infra.base import files
from infra.base.errors import UserError
from pipelines.raw.source import told_apart

Noted = Mapping[str, Mapping[str, Any]]  # by a file's path within the source: bytes, footer, and sha256 or mtime_ns
HASHED_WHOLE = 256 << 20  # bytes of all files together; a larger source is known by footers and times
FILES_AT_ONCE = 16
TAIL = 8  # bytes that end a Parquet file: the footer's length and the magic number
REMEDY = "restore the file as it was, or give another"


def contents_of(source: str, paths: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Note what a source's files hold, by their paths within it.

    A file is known by its size and its footer, which has the sizes and statistics of every column chunk. The bytes are
    hashed as well where all files together are small; else the time of the last change stands for them.
    """
    entries = [_entry(path) for path in paths]
    is_small = sum(entry.size for entry in entries) <= HASHED_WHOLE
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        noted = list(pool.map(lambda path, entry: _noted(path, entry, is_small), paths, entries))
    return dict(zip([_name(source, path) for path in paths], noted, strict=True))


def _entry(path: str) -> pafs.FileInfo:
    filesystem, inner = files.open_filesystem(path)
    return filesystem.get_file_info(inner)


def _name(source: str, path: str) -> str:
    folder = told_apart(source)
    return path.removeprefix(f"{folder}/") if path.startswith(f"{folder}/") else path.rpartition("/")[2]


def _noted(path: str, entry: pafs.FileInfo, is_small: bool) -> dict[str, Any]:
    noted: dict[str, Any] = {"bytes": entry.size, "footer": _footer_hash(path)}
    if is_small:
        return noted | {"sha256": files.sha256(path)}
    return noted | {"mtime_ns": entry.mtime_ns}


def _footer_hash(path: str) -> str:
    filesystem, inner = files.open_filesystem(path)
    with filesystem.open_input_file(inner) as file:
        size = file.size()
        file.seek(size - TAIL)
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - TAIL - length))
        return hashlib.sha256(file.read(length)).hexdigest()


def refuse_changed(before: Noted, now: Noted, place: str, remedy: str) -> None:
    """Compare a source's files with those noted, names and contents.

    Args:
        before: what was noted; empty in what older versions began, which then passes.
        place: the flag and what it was given, for a refusal.
        remedy: what to do instead, for a refusal.

    Raises:
        UserError: naming the first file that is new, gone or changed.
    """
    if not before:
        return
    gone = sorted(before.keys() - now.keys())
    new = sorted(now.keys() - before.keys())
    if gone or new:
        what = f"{gone[0]} is no longer among its files" if gone else f"{new[0]} is a new one among its files"
        raise UserError(f"{place}: {what}; {remedy}")
    refuse_changed_files(before, now, place, remedy, by_time=True)


def refuse_changed_files(before: Noted, now: Noted, place: str, remedy: str, by_time: bool) -> None:
    """Compare the files that stand in both notes.

    Args:
        by_time: whether a time of the last change counts; a copy elsewhere has another.

    Raises:
        UserError: naming the first file that changed, and how.
    """
    for name in sorted(before.keys() & now.keys()):
        keys = ("bytes", "footer", "sha256", *(["mtime_ns"] if by_time else []))
        both = [key for key in keys if before[name].get(key) is not None and now[name].get(key) is not None]
        differing = next((key for key in both if before[name][key] != now[name][key]), None)
        if differing:
            raise UserError(
                f"{place}: {name} has changed since ({_change(differing, before[name], now[name])}); {remedy}"
            )


def _change(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if key == "bytes":
        return f"{before[key]:,} bytes then, {now[key]:,} now"
    if key == "mtime_ns":
        return "it was written again later, and is too large to be compared byte by byte"
    return "as many bytes, but others"


def digest(noted: Noted) -> str:
    """Hash what files hold, whatever their times: bytes and footers, and whole contents where they are known."""
    lines = [
        f"{name} {about['bytes']} {about['footer']} {about.get('sha256')}" for name, about in sorted(noted.items())
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
