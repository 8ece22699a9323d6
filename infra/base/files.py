"""Files on a local disk, in S3, or (read only) on the Hub, by one kind of path.

A command line's relative paths count from the folder that the user stands in; see places.py.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from infra.base import disk_errors, json_text, pointers, s3_filesystem
from infra.base.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
S3 = "s3://"
HUB = "hf://"
WORK = ".work"  # in a folder of this software: progress and intermediate files of an unfinished job
IN_WORK = re.compile(rf"/{re.escape(WORK)}(-\w+)?(/|$)")
KINDS = (pafs.FileType.File, pafs.FileType.Directory)
BLOCK = 1 << 22  # bytes read at once
NO_SECRETS = "a URL is host and path alone, s3:// bucket and folder alone; keys and options come from the environment"
PACKAGED = ("infra/world/", "infra/benchmarks/shapes/")  # data that is installed with the code
INSTALLED = {"site-packages", "dist-packages"}  # where a copy of this code stands that is no repository


class _Base:
    """The folder that relative paths count from in this process."""

    folder: Path | None = None  # the repository's root


@contextlib.contextmanager
def counting_from(folder: Path | None) -> Iterator[None]:
    """Let relative paths count from a folder within the block; None is the repository's root."""
    before = _Base.folder
    _Base.folder = folder
    try:
        yield
    finally:
        _Base.folder = before


def local(text: str) -> Path:
    """Return where a text would lie if it were a path: it may also be a name, so an installed copy refuses none.

    Raises:
        UserError: for a URL with credentials or options, which is not repeated.
    """
    if carries_secrets(text):
        raise UserError(NO_SECRETS)
    return (ROOT if text.startswith(PACKAGED) else _Base.folder or ROOT) / text


def is_remote(path: str) -> bool:
    """Say whether a path is not on a local disk."""
    return path.startswith((S3, HUB))


def resolve(path: str | Path) -> str:
    """Make a path absolute; s3:// and hf:// stay as they are.

    A relative one counts from the folder that counting_from names, else from the repository's root. The working
    directory itself is never asked: in a Ray job it is wherever Ray was started.

    Raises:
        UserError: for a relative path when the code itself runs from Ray's per-job upload, which is deleted
            afterwards, or from an installed copy, whose folder is no place for anybody's files; for s3:// or hf://
            alone; for a URL with credentials or options, which is not repeated.
    """
    text = str(path)
    if carries_secrets(text):
        raise UserError(NO_SECRETS)
    if is_remote(text) and text.split("//", 1)[1][:1] in ("", "/"):
        raise UserError(f"{text}: names no bucket; write s3://bucket/folder")
    if is_remote(text) or os.path.isabs(text):
        return text.rstrip("/") or "/"
    if _Base.folder is not None and not text.startswith(PACKAGED):
        return str(_Base.folder / text)
    if "/runtime_resources/" in str(ROOT):
        raise UserError(f"{text}: with --working-dir every path must be absolute or s3://, else it ends with the job")
    if INSTALLED & set(ROOT.parts) and not text.startswith(PACKAGED):
        raise UserError(f"{text}: this is an installed copy without a repository; give an absolute path or s3://")
    return str(ROOT / text)


def carries_secrets(text: str) -> bool:
    """Say whether a URL, alone or after NAME=, has a user before its host, or options: a key, or a signature."""
    before, is_url, rest = text.partition("://")
    first = rest.split("/")[0]
    # A secret key may hold a slash, and its @ then comes later; no bucket's name has a colon.
    return bool(is_url) and ("?" in rest or "@" in first or (before.endswith("s3") and ":" in first))


def open_filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """Return the filesystem of a resolved path and the path within it."""
    if path.startswith(S3):
        return s3_filesystem.open_s3(s3_filesystem.endpoint(), s3_filesystem.region()), path.removeprefix(S3)
    if path.startswith(HUB):
        import fsspec  # huggingface_hub registers hf:// there; its token stays in the environment of each process

        return pafs.PyFileSystem(pafs.FSSpecHandler(fsspec.filesystem("hf"))), path.removeprefix(HUB)
    return pafs.LocalFileSystem(), path


def _type(path: str) -> pafs.FileType:
    filesystem, inner = open_filesystem(path)
    try:
        return filesystem.get_file_info(inner).type
    except OSError as error:
        raise UserError(f"{path}: cannot be reached ({disk_errors.reason(error)})") from error


def join(path: str, *parts: str) -> str:
    """Join path parts with a slash."""
    return "/".join([path.rstrip("/"), *parts])


def inside(folder: str, name: str) -> str:
    """Join a folder and a name that was read, from a marker or a listing: whoever wrote it may mean another place.

    Raises:
        UserError: naming the file, if the name is absolute or has empty parts, `.` or `..`.
    """
    if {"", ".", ".."} & set(name.split("/")):
        raise UserError(f"{folder}: names the file {name!r}, which may lie outside; nothing is read or written there")
    return join(folder, name)


def exists(path: str) -> bool:
    """Say whether a file or folder is there.

    Raises:
        UserError: if that cannot be found out: no access, no such server.
    """
    return _type(path) != pafs.FileType.NotFound


def is_file(path: str) -> bool:
    """Say whether a file is there, and no folder.

    Raises:
        UserError: if that cannot be found out.
    """
    return _type(path) == pafs.FileType.File


def size(path: str) -> int:
    """Return the bytes of a file.

    Raises:
        OSError: if it is not there.
    """
    filesystem, inner = open_filesystem(path)
    about = filesystem.get_file_info(inner)
    if about.size is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return int(about.size)


def _entries(folder: str, recursive: bool) -> list[pafs.FileInfo]:
    filesystem, inner = open_filesystem(folder)
    try:
        return filesystem.get_file_info(pafs.FileSelector(inner, recursive=recursive, allow_not_found=True))
    except OSError as error:
        raise UserError(f"{folder}: cannot be reached ({disk_errors.reason(error)})") from error


def _below(folder: str) -> list[pafs.FileInfo]:
    return [entry for entry in _entries(folder, recursive=True) if entry.type == pafs.FileType.File]


def _scheme(path: str) -> str:
    return next((scheme for scheme in (S3, HUB) if path.startswith(scheme)), "")


def list_files(folder: str, suffix: str = "") -> list[str]:
    """List the files below a folder whose names end in suffix, sorted; empty where the folder is absent.

    Raises:
        UserError: if that cannot be found out.
    """
    return sorted(_scheme(folder) + entry.path for entry in _below(folder) if entry.path.endswith(suffix))


def by_folder(folder: str) -> Iterator[list[str]]:
    """Yield the files of a folder, then those of each folder below it, the nearest first: a reader may stop early.

    Raises:
        UserError: if a folder cannot be reached.
    """
    waiting = deque([folder])
    while waiting:
        entries = sorted(_entries(waiting.popleft(), recursive=False), key=lambda entry: entry.path)
        paths = {kind: [_scheme(folder) + entry.path for entry in entries if entry.type == kind] for kind in KINDS}
        waiting.extend(paths[pafs.FileType.Directory])
        yield paths[pafs.FileType.File]


def stamps(folder: str) -> list[tuple[str, int, int]]:
    """List the files below a folder, sorted: the path within it, size in bytes and time of the last change in ns.

    Raises:
        UserError: if that cannot be found out.
    """
    inner = open_filesystem(folder)[1]
    return sorted((entry.path.removeprefix(f"{inner}/"), entry.size, entry.mtime_ns) for entry in _below(folder))


def read_bytes(path: str) -> bytes:
    """Read a whole file."""
    filesystem, inner = open_filesystem(path)
    with filesystem.open_input_stream(inner, compression=None) as stream:
        return stream.read()


def write_bytes(path: str, content: bytes | pa.Buffer) -> None:
    """Write a whole file so that it is either absent or complete, creating its folder.

    Raises:
        UserError: for a path on the Hub, where every file written would be a public commit.
    """
    filesystem, inner = open_filesystem(writable(path))
    if path.startswith(S3):  # an upload becomes visible only when it is complete
        with filesystem.open_output_stream(inner, compression=None) as stream:
            stream.write(content)
        return
    Path(inner).parent.mkdir(parents=True, exist_ok=True)
    partial = Path(f"{inner}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(inner)
    flush(str(Path(inner).parent))


def flush(path: str) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk; S3 has them before it answers.

    Whatever vouches for a file, such as a manifest, is written after this: a power cut then cannot leave it alone.
    """
    if is_remote(path):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # of disks that flush no folders
            raise
    finally:
        os.close(descriptor)


def flush_below(folder: str) -> None:
    """Wait until a folder is on the disk with all that lies in it."""
    if is_remote(folder):
        return
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            flush(os.path.join(place, name))
        flush(place)


def _blocks(stream: pa.NativeFile) -> Iterator[bytes]:
    return iter(lambda: stream.read(BLOCK), b"")


def copy(source: str, target: str) -> str:
    """Copy a file between disk and S3, block by block, and return the SHA-256 of its bytes, in hex.

    Raises:
        OSError: if it could not be read or written, and then no part of it is left; or less arrived than was sent.
    """
    origin, read = open_filesystem(source)
    destination, written = open_filesystem(writable(target))
    if not target.startswith(S3):
        Path(written).parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    size = 0
    with origin.open_input_stream(read, compression=None) as incoming:
        try:
            with destination.open_output_stream(written, compression=None) as outgoing:
                for block in _blocks(incoming):
                    digest.update(block)
                    size += len(block)
                    outgoing.write(block)
        except BaseException:
            if destination.get_file_info(written).type == pafs.FileType.File:
                destination.delete_file(written)  # closing the stream published what there was, on S3 too
            raise
    arrived = destination.get_file_info(written).size
    if arrived != size:
        raise OSError(f"{target}: {arrived} of {size} bytes arrived")
    flush(target)
    return digest.hexdigest()


def writable(path: str) -> str:
    """Return a path that may be written to.

    Raises:
        UserError: for one on the Hub, where every file written would be a public commit.
    """
    if path.startswith(HUB):
        raise UserError(f"{path}: hf:// is only read; write to a local folder or s3://")
    return path


def write_table(path: str, table: pa.Table, options: Mapping[str, Any] | None = None) -> str:
    """Write a table as one Parquet file, absent or complete, and return the SHA-256 of its bytes, in hex.

    Args:
        options: how it is laid out, as pyarrow's writer takes it.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **(options or {}))
    content = sink.getvalue()
    write_bytes(path, content)
    return hashlib.sha256(content).hexdigest()


def read_json(path: str) -> Any:
    """Read a JSON file.

    Raises:
        UserError: if it is not valid JSON.
    """
    try:
        return json_text.parse(read_bytes(path))
    except ValueError as error:
        pointers.refuse(path)
        raise UserError(f"{path}: not valid JSON ({error}); restore it from a copy, or write it anew") from error


def write_json(path: str, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2, default=str) + "\n").encode())


def owner_of(work: str) -> str:
    """Return the folder of this software in which a work folder, or what is below it, lies."""
    begin = IN_WORK.search(work)
    return work[: begin.start()] if begin else work.rpartition("/")[0]


def remove(path: str, below: str | None = None) -> None:
    """Delete a file, or a folder with everything in it; of a link, the link alone. What is absent is passed over.

    Args:
        below: the folder that is this software's, in which the path lies: no link on the way from it is followed. By
            default it is the path's own folder.

    Raises:
        UserError: naming a link on the way, behind which may lie what is somebody else's.
    """
    filesystem, inner = open_filesystem(writable(path))
    if not is_remote(path):
        _refuse_links(path, below)
        if os.path.islink(path):
            os.unlink(path)
            return
    match _type(path):
        case pafs.FileType.Directory:
            filesystem.delete_dir(inner)
        case pafs.FileType.File:
            filesystem.delete_file(inner)


def _refuse_links(path: str, below: str | None) -> None:
    place = Path(path).parent
    while below is not None and place != Path(below) and place.is_relative_to(below):
        if place.is_symlink():
            raise UserError(
                f"{place}: a link, and nothing is deleted through one; put the folder itself in its place, or delete "
                "the link"
            )
        place = place.parent


def sha256(path: str) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    filesystem, inner = open_filesystem(path)
    with filesystem.open_input_stream(inner, compression=None) as stream:
        for block in _blocks(stream):
            digest.update(block)
    return digest.hexdigest()
