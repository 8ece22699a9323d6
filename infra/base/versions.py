"""Schema versions: a manifest of another one than this code reads is refused in words, not half understood."""

from __future__ import annotations

from typing import Any

from infra.base.errors import UserError

KEY = "schema_version"


def check_version(path: str, told: Any, reads: int, remedy: str, unnamed: int | None = None) -> None:
    """Refuse a manifest of another schema version.

    Args:
        path: of the manifest.
        told: what it holds.
        reads: the version that this code reads, and writes.
        remedy: what to do, as the sentence goes on.
        unnamed: the version of a manifest that names none, from before this kind named one.

    Raises:
        UserError: naming the file, both versions and what to do.
    """
    found = told.get(KEY, unnamed) if isinstance(told, dict) else None
    if found != reads:
        newer = isinstance(found, int) and found > reads
        more = ", or use the newer code that wrote it" if newer else ""
        raise UserError(f"{path}: schema version {found}; this code reads {reads}: {remedy}{more}")
