"""Pairs in WebDataset's tar files: the files of a sample share a key, which is their name up to its first point.

KEY.0.jpg, KEY.1.jpg   the images in slot 0 and 1; jpg_0.jpg and image_0.jpg do as well, and .jpeg, .png or .webp
KEY.json               an object with caption (or prompt) and label_0; or, in its place:
KEY.caption.txt        the caption; prompt.txt, original_prompt.txt and txt do as well
KEY.label_0.txt        1, 0 or 0.5

Tars are read from front to back, and nothing is unpacked.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import Any

from infra.base import files, json_text
from infra.base.errors import UserError
from pipelines.raw.comparisons import Comparison, caption_of
from pipelines.raw.layouts import own_label

SUFFIX = ".tar"
NAME = "WebDataset"
IMAGE = re.compile(r"(?:jpg_|image_)?([01])\.(?:jpe?g|png|webp)")
CAPTIONS = ("caption.txt", "prompt.txt", "original_prompt.txt", "txt")
LABEL = "label_0.txt"
MOST_BYTES = 1 << 28  # of a file in a tar
HOW = "a pair is KEY.0.jpg, KEY.1.jpg and KEY.json with caption and label_0"
Sample = dict[str, bytes]  # by the end of the file's name


def samples(path: str) -> Iterator[tuple[str, Sample]]:
    """Yield the samples of a tar, each with its key; files of a sample stand together.

    Raises:
        UserError: if it is no whole tar, or a sample has a file twice.
    """
    key = None
    held: Sample = {}
    for member, content in _members(path):
        folder, _, name = member.rpartition("/")
        begin, _, end = name.partition(".")
        if f"{folder}/{begin}" != key:
            if key is not None:
                yield key.lstrip("/"), held
            key = f"{folder}/{begin}"
            held = {}
        if end.lower() in held:
            raise UserError(f"--table {path}: {member} stands twice in its sample; keep one")
        held[end.lower()] = content
    if key is not None:
        yield key.lstrip("/"), held


def _members(path: str) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of a tar's files; folders, links and what is hidden are passed over."""
    filesystem, inner = files.open_filesystem(path)
    try:
        with filesystem.open_input_stream(inner) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                opened = tar.extractfile(member) if member.isreg() else None
                if member.size > MOST_BYTES:
                    raise UserError(
                        f"--table {path}: {name} has {member.size:,} bytes, more than any image; leave it out"
                    )
                if opened is not None and not name.rpartition("/")[2].startswith("."):
                    yield name, opened.read()
            _check_end(tar.offset, filesystem.get_file_info(inner).size, path)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"--table {path}: not readable as a tar ({error}); replace it by a whole file") from error


def _check_end(end: int, size: int, path: str) -> None:
    """Refuse a tar without the block of zeros that ends it: tarfile takes one cut between two files for a whole one.

    Args:
        end: where its last file ends.
    """
    if size < end + tarfile.BLOCKSIZE:
        raise UserError(f"--table {path}: not readable as a tar (cut at byte {size:,}); replace it by a whole file")


def pair_of(key: str, sample: Sample, path: str) -> tuple[Comparison, tuple[bytes, bytes]]:
    """Read a sample as a pair and its two images.

    Raises:
        UserError: naming the tar and the sample.
    """
    place = f"--table {path}: sample {key}"
    matches = [IMAGE.fullmatch(name) for name in sample]
    images = {int(match[1]): match[0] for match in matches if match is not None}
    shown = [match[0] for match in matches if match is not None]
    if len(shown) > 2:
        raise UserError(f"{place}: has {', '.join(sorted(shown))}, several images of one slot; keep one of each")
    if len(images) < 2:
        raise UserError(f"{place}: has {', '.join(sorted(sample)) or 'nothing'}, and not two images; {HOW}")
    about = _about(sample, place)
    comparison = Comparison(
        place=place,
        caption=caption_of(about.get("caption", about.get("prompt")), place),
        names=(images[0], images[1]),
        label_0=own_label(about.get("label_0"), place),
    )
    return comparison, (sample[images[0]], sample[images[1]])


def _about(sample: Sample, place: str) -> dict[str, Any]:
    """Return a sample's caption and label, of its JSON or of files of their own."""
    about: dict[str, Any] = {}
    if "json" in sample:
        try:
            about = json_text.parse(sample["json"])
        except ValueError as error:
            raise UserError(f"{place}: json is not readable ({error})") from error
        if not isinstance(about, dict):
            raise UserError(f"{place}: json holds no object; {HOW}")
    for name in CAPTIONS:
        if name in sample:
            about = {"caption": _text(sample[name], name, place)} | about
    if LABEL in sample:
        about = {"label_0": _text(sample[LABEL], LABEL, place)} | about
    return about


def _text(content: bytes, name: str, place: str) -> str:
    try:
        return content.decode().strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: {name} is no UTF-8 text") from error
