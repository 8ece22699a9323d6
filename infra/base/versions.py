"""Schema versions: a manifest of a version that this code does not read is refused, with what to do."""

from __future__ import annotations

from typing import Any

from infra.base.errors import UserError

KEY = "schema_version"


def check_version(path: str, manifest: Any, reads: int, remedy: str, unnamed: int | None = None) -> None:
    """Refuse a manifest of another schema version.

    Args:
        path: where the manifest lies.
        manifest: its content, as JSON has it.
        reads: the version that this code reads and writes.
        remedy: what to do, the end of the message's sentence.
        unnamed: the version of a manifest that names none; early ones of some kinds do not.

    Raises:
        UserError: naming the file, both versions and what to do.
    """
    version = manifest.get(KEY, unnamed) if isinstance(manifest, dict) else None
    if version != reads:
        newer = isinstance(version, int) and version > reads
        otherwise = ", or use the newer code that wrote it" if newer else ""
        raise UserError(f"{path}: schema version {version}; this code reads {reads}: {remedy}{otherwise}")
