"""Copies on a node's own disk, each made once by the first process that needs it."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from infra.base import copy_index, disk_lock, files
from infra.base.errors import UserError


def staged_once(
    cache: str | None, name: str, needed: int, source: str, fill: Callable[[Path], None], setting: str = "--cache"
) -> Path:
    """Return a folder of local copies, filled once per node by the first process that asks; the others wait for it.

    A copy that lost bytes since, by a power cut or a cleaner of temporary folders, is made again, and this is said.

    Args:
        cache: where the folders stand; by default in the temporary folder.
        name: of the folder, made from the content's hash, so that it is never stale.
        needed: bytes.
        source: what is copied, for a refusal's sentence.
        setting: what a user changes to have the folders elsewhere, for the same.

    Raises:
        UserError: if the cache is not this user's alone or its disk too full; and fill's own.
    """
    base = cache_folder(cache, setting)
    folder = base / name
    with disk_lock.held(str(base / f"{name}.lock"), wait=True):
        _refuse_link(folder, f"delete this link, or set {setting} to a folder of your own")
        if not copy_index.is_begun_only(folder):
            wrong = copy_index.damage(folder)
            if wrong is None:
                return folder
            print(f"{folder}: {wrong}, so {source} is copied again", file=sys.stderr, flush=True)
        files.remove(str(folder))
        unfinished = f"{name}.{socket.gethostname()}"
        for left in base.glob(f"{glob.escape(unfinished)}.*.partial"):  # by killed processes of this node
            files.remove(str(left))
        free = shutil.disk_usage(base).free
        if free < needed:
            raise UserError(
                f"{base}: {needed:,} bytes are needed for {source}, {free:,} are free; "
                f"set {setting} to a folder on a larger disk"
            )
        partial = base / f"{unfinished}.{os.getpid()}.partial"
        partial.mkdir(mode=0o700)
        fill(partial)
        copy_index.write(partial)
        _take_place(partial, folder)
    return folder


def _take_place(partial: Path, folder: Path) -> None:
    """Give a whole copy its name. On a disk of several nodes another one's may be there by now: a lock may be a node's.

    Nobody writes into a folder of that name: another node has mapped it, and would read what is written as zeros.
    """
    try:
        partial.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or copy_index.damage(folder) is not None:
            raise
        files.remove(str(partial))
    files.flush(str(folder.parent))


def linked_once(contents: Mapping[str, Path | bytes], setting: str = "TMPDIR") -> Path:
    """Return a folder of links in the temporary folder, made once for what the files behind them are now.

    Args:
        contents: by path within the folder, what a link leads to, or a small file's bytes.

    Raises:
        UserError: if the temporary folder is not this user's alone.
    """
    base = cache_folder(None, setting)
    described = [(name, _describe(target, base)) for name, target in sorted(contents.items())]
    folder = base / f"links-{hashlib.sha256(repr(described).encode()).hexdigest()[:32]}"
    with disk_lock.held(str(base / f"{folder.name}.lock"), wait=True):
        _refuse_link(folder, f"delete this link, or set {setting} to a folder of your own")
        if all(_holds(folder / name, target) for name, target in contents.items()):
            return folder
        if folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
        for name, target in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(target, bytes):
                (folder / name).write_bytes(target)
            else:
                (folder / name).symlink_to(target)
    return folder


def _describe(target: Path | bytes, base: Path) -> object:
    """Describe what a link leads to; a copy in this cache is named for its content, and its time is of its last use."""
    if isinstance(target, bytes):
        return target
    status = target.stat()
    return str(target), status.st_size, 0 if target.is_relative_to(base) else status.st_mtime_ns


def _holds(path: Path, target: Path | bytes) -> bool:
    if isinstance(target, bytes):
        return path.is_file() and path.read_bytes() == target
    return path.is_symlink() and path.readlink() == target


def _refuse_link(folder: Path, remedy: str) -> None:
    """Refuse a link where this code makes a folder: what is written there would go to another place."""
    if folder.is_symlink():
        raise UserError(f"{folder}: a link, where copies are to be written; {remedy}")


def check_cache(cache: str | None, setting: str = "--cache") -> None:
    """Refuse a cache that is on no disk, before any node fills it.

    Raises:
        UserError: naming the setting.
    """
    if cache and files.is_remote(files.resolve(cache)):
        raise UserError(f"{setting} {cache}: not on a disk, from which each node maps its copies; give a local folder")


def cache_folder(cache: str | None, setting: str = "--cache") -> Path:
    """Return the folder of this node's copies: as given, or in the temporary folder; a new one is its user's alone.

    Raises:
        UserError: if it is not on a disk, or another user's, or one that everybody may write to, or a link that another
            user made, or in the temporary folder anybody.
    """
    check_cache(cache, setting)
    base = Path(files.resolve(cache)) if cache else Path(tempfile.gettempdir()) / f"diffusion-dpo-{os.getuid()}"
    if not cache:
        _refuse_link(base, f"delete this link, or set {setting} to a folder of your own")
    try:
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError:
        raise UserError(f"{base}: no folder, where copies are to be written; set {setting} to a folder") from None
    status = base.stat()
    if {base.lstat().st_uid, status.st_uid} != {os.geteuid()}:
        raise UserError(f"{base}: belongs to another user; set {setting} to a folder of your own")
    if status.st_mode & stat.S_IWOTH:
        raise UserError(
            f"{base}: everybody may write to it, and so change what is trained on; run chmod 700 on it, or set "
            f"{setting} to a folder of your own"
        )
    return base
