"""A disk that is full after so many bytes.

A disk cannot be filled without rights, so the file system that a job is given refuses as a full one does.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from fsspec.implementations.local import LocalFileSystem

from infra.base import files


class FullDisk(pafs.FSSpecHandler):
    """Opens nothing for writing once a folder has so many bytes."""

    def __init__(self, folder: str, limit: int) -> None:
        super().__init__(LocalFileSystem())
        self.folder, self.limit = folder, limit

    def open_output_stream(self, path: str, metadata: Any) -> Any:
        held = sum(file.stat().st_size for file in Path(self.folder).rglob("*.parquet"))
        if held > self.limit:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        return super().open_output_stream(path, metadata)


def fill(patched: pytest.MonkeyPatch, folder: str, limit: int) -> None:
    """Let this process find no room below a folder once it has so many bytes."""
    whole = files.open_filesystem
    full = pafs.PyFileSystem(FullDisk(folder, limit))
    patched.setattr(files, "open_filesystem", lambda path: (full, path) if path.startswith(folder) else whole(path))
