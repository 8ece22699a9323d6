"""The encoder on a disk that is full after so many bytes: `python tests/support/full_disk.py BYTES FLAGS`.

A disk cannot be filled without rights, so the file system that the workers are given refuses as a full one does.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
from fsspec.implementations.local import LocalFileSystem

from infra.base import cli, files
from pipelines.latents.encode_config import PRESETS, EncodeConfig
from pipelines.latents.encode_latents import main


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


if __name__ == "__main__":
    limit, flags = int(sys.argv[1]), sys.argv[2:]
    pairs = flags[flags.index("--store") + 1] + "/pairs"
    whole = files.open_filesystem
    full = pafs.PyFileSystem(FullDisk(pairs, limit))
    files.open_filesystem = lambda path: (full, path) if path == pairs else whole(path)
    cli.run(main, EncodeConfig, PRESETS, flags)
