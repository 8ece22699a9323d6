"""Files on a local disk or in S3, by one kind of path; local relative paths count from the repository root."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from infra.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def resolve(path: str | Path) -> str:
    """Make a path absolute, counting from the repository root; s3:// stays as it is.

    The working directory is never used: under `ray job submit` it is wherever Ray was started.

    Raises:
        UserError: for a relative path when the code itself runs from Ray's per-job upload, which is deleted afterwards.
    """
    text = str(path)
    if text.startswith("s3://") or os.path.isabs(text):
        return text.rstrip("/") or "/"
    if "/runtime_resources/" in str(ROOT):
        raise UserError(f"{text}: with --working-dir every path must be absolute or s3://, else it ends with the job")
    return str(ROOT / text)


def open_filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """Return the filesystem of a resolved path and the path within it."""
    if path.startswith("s3://"):
        # S3-compatible servers know fewer checksum headers than AWS does.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return pafs.S3FileSystem(endpoint_override=endpoint), path.removeprefix("s3://")
    return pafs.LocalFileSystem(), path


def join(path: str, *parts: str) -> str:
    """Join path parts with a slash."""
    return "/".join([path.rstrip("/"), *parts])


def exists(path: str) -> bool:
    """Say whether a file or folder is there."""
    filesystem, inner = open_filesystem(path)
    return filesystem.get_file_info(inner).type != pafs.FileType.NotFound


def list_files(folder: str, suffix: str = "") -> list[str]:
    """List the files below a folder whose names end in suffix, sorted; empty where the folder is absent."""
    filesystem, inner = open_filesystem(folder)
    entries = filesystem.get_file_info(pafs.FileSelector(inner, recursive=True, allow_not_found=True))
    scheme = "s3://" if folder.startswith("s3://") else ""
    return sorted(scheme + e.path for e in entries if e.type == pafs.FileType.File and e.path.endswith(suffix))


def read_bytes(path: str) -> bytes:
    """Read a whole file."""
    filesystem, inner = open_filesystem(path)
    with filesystem.open_input_stream(inner) as stream:
        return stream.read()


def write_bytes(path: str, content: bytes) -> None:
    """Write a whole file so that it is either absent or complete, creating its folder."""
    filesystem, inner = open_filesystem(path)
    if path.startswith("s3://"):  # an upload becomes visible only when it is complete
        with filesystem.open_output_stream(inner) as stream:
            stream.write(content)
        return
    Path(inner).parent.mkdir(parents=True, exist_ok=True)
    partial = Path(f"{inner}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(inner)


def read_json(path: str) -> Any:
    """Read a JSON file.

    Raises:
        UserError: if it is not valid JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error


def write_json(path: str, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, default=str) + "\n").encode())


def remove(path: str) -> None:
    """Delete a file, or a folder with everything in it; nothing happens where it is absent."""
    filesystem, inner = open_filesystem(path)
    match filesystem.get_file_info(inner).type:
        case pafs.FileType.Directory:
            filesystem.delete_dir(inner)
        case pafs.FileType.File:
            filesystem.delete_file(inner)


def sha256(path: str) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    filesystem, inner = open_filesystem(path)
    with filesystem.open_input_stream(inner) as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
