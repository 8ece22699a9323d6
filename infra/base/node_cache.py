"""Copies on a node's own disk, each made once by the first process that needs it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from infra.base import disk_lock, files
from infra.base.errors import UserError


def staged_once(
    cache: str | None, name: str, needed: int, source: str, fill: Callable[[Path], None], setting: str = "--cache"
) -> Path:
    """Return a folder of local copies, filled once per node by the first process that asks; the others wait for it.

    Args:
        cache: where the folders stand; by default in the temporary folder.
        name: of the folder, made from the content's hash, so that it is never stale.
        needed: bytes.
        source: what is copied, for a refusal's sentence.
        setting: what a user changes to have the folders elsewhere, for the same.

    Raises:
        UserError: if the cache is another user's or its disk too full; and fill's own.
    """
    base = cache_folder(cache, setting)
    folder = base / name
    with disk_lock.held(str(base / f"{name}.lock"), wait=True):
        if not (folder / "complete").exists():
            free = shutil.disk_usage(base).free
            if free < needed:
                raise UserError(
                    f"{base}: {needed:,} bytes are needed for {source}, {free:,} are free; "
                    f"set {setting} to a folder on a larger disk"
                )
            folder.mkdir(exist_ok=True)
            fill(folder)
            (folder / "complete").touch()
    return folder


def check_cache(cache: str | None, setting: str = "--cache") -> None:
    """Refuse a cache that is on no disk, before any node fills it.

    Raises:
        UserError: naming the setting.
    """
    if cache and files.is_remote(files.resolve(cache)):
        raise UserError(f"{setting} {cache}: not on a disk, from which each node maps its copies; give a local folder")


def cache_folder(cache: str | None, setting: str = "--cache") -> Path:
    """Return the folder of this node's copies: as given, or in the temporary folder.

    Raises:
        UserError: if it is not on a disk, or another user's.
    """
    check_cache(cache, setting)
    base = Path(files.resolve(cache)) if cache else Path(tempfile.gettempdir()) / f"diffusion-dpo-{os.getuid()}"
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    if base.stat().st_uid != os.getuid():
        raise UserError(f"{base}: belongs to another user; set {setting} to a folder of your own")
    return base
