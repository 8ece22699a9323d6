"""Whether a folder holds the files that its manifest names: each one whole, and none that nobody vouches for."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from infra.base import disk_errors, files, tables
from infra.base.errors import UserError

Named = Mapping[str, Mapping[str, Any]]  # bytes and sha256 of each file, by its path within the folder
Stamp = tuple[int, ...]  # changes when a file is written or replaced


def describe(folder: str, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Measure files of a folder for its manifest: bytes and sha256 of each; every byte is read."""
    described = {}
    for name in names:
        path = files.join(folder, name)
        described[name] = {"bytes": files.size(path), "sha256": files.sha256(path)}
    return described


def problems(folder: str, named: Named, remedy: str, contents: bool = False) -> Iterator[str]:
    """Yield one sentence for each named file that is missing or differs.

    Args:
        remedy: what to do about it, the end of each sentence.
        contents: whether to compare hashes too. A process reads a file once for that, unless it was written since.
    """
    sizes = _sizes(folder, named)
    for name, expected in named.items():
        path = files.join(folder, name)
        try:
            wrong = _difference(path, sizes.get(name), expected, contents)
        except OSError as error:
            wrong = f"cannot be read ({disk_errors.reason(error)}); ask its owner for the right to"
        if wrong:
            yield f"{path}: {wrong}; {remedy}"


def _difference(path: str, size: int | None, expected: Mapping[str, Any], contents: bool) -> str | None:
    """Say in what a file differs from what its manifest says; None where in nothing."""
    if size is None:
        return "missing, though its manifest names it"
    if size != expected["bytes"]:
        return f"{size} bytes, but its manifest says {expected['bytes']}"
    if contents and _sha256_as_of(path, _stamp(path)) != expected["sha256"]:
        return "its contents differ from its manifest"
    return None


def _sizes(folder: str, names: Iterable[str]) -> dict[str, int]:
    """Return the bytes of those files that are there: S3 tells them of a thousand files by one listing."""
    sizes: dict[str, int] = {}
    for part in sorted({name.split("/")[0] for name in names if "/" in name}):
        sizes |= {f"{part}/{name}": size for name, size, _ in files.stamps(files.join(folder, part))}
    for name in names:
        path = files.join(folder, name)
        if "/" not in name and files.is_file(path):
            sizes[name] = files.size(path)
    return sizes


def unknown(
    folder: str, known: Iterable[str], unread: re.Pattern[str] | None = None, suffixes: tuple[str, ...] = (".parquet",)
) -> Iterator[str]:
    """Yield one sentence for each file that a reader of the whole folder would take, and that nobody vouches for.

    Copies of a block double its rows for such a reader, and another folder's files may hold rows that were held out.

    Args:
        folder: what the names count from.
        known: names of the files that belong there; what lies below their first folders is looked at.
        unread: names of others that may lie there.
        suffixes: ends of the names of the files that count.
    """
    names = set(known)
    for part in sorted({name.split("/")[0] if "/" in name else "" for name in names}):
        for path in files.list_files(files.join(folder, part) if part else folder):
            name = path.removeprefix(f"{folder}/")
            if path.endswith(suffixes) and name not in names and not (unread and unread.fullmatch(name)):
                yield (
                    f"{path}: a {_kind(path)} too many, which no manifest here names; delete it, or if its rows belong "
                    "here, make this folder again under another name"
                )


def _kind(path: str) -> str:
    return "Parquet file" if path.endswith(tables.SUFFIX) else "file"


def refuse(sentences: Iterator[str]) -> None:
    """Raise the first of some sentences.

    Raises:
        UserError: if there is one.
    """
    for sentence in sentences:
        raise UserError(sentence)


def _stamp(path: str) -> Stamp:
    if files.is_remote(path):
        filesystem, inner = files.open_filesystem(path)
        about = filesystem.get_file_info(inner)
        return (about.size, about.mtime_ns)
    status = os.stat(path)
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.cache
def _sha256_as_of(path: str, _stamp: Stamp) -> str:
    return files.sha256(path)
