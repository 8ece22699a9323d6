"""What bytes that are no image in a format that is read say of themselves by how they begin."""

from __future__ import annotations

import re

BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF"}
IMAGES = {
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xml": "XML or SVG",
    b"<!DOCTYPE": "a page of HTML",
    b"<html": "a page of HTML",
    b"\x93NUMPY": "a NumPy array",
    b"data:image": "a data URI",
}
FORMATS = {*BRANDS.values(), "JPEG XL", "JPEG 2000", "PDF", "SVG"}  # those that are pictures, to be saved in another
PICKLE = re.compile(rb"\x80[\x02-\x05]")
BASE64 = re.compile(rb"(?:iVBORw0KGgo|/9j/|UklGR|R0lGOD)[A-Za-z0-9+/_=\s-]{40}")  # of PNG, JPEG, WebP, GIF
PATH = re.compile(rb"[ -~]{1,1000}\.(?:png|jpe?g|webp|gif|bmp|tiff?)", re.IGNORECASE)


def held_by(content: bytes) -> str:
    """Name what bytes hold in place of an image in a format that is read; nothing where they do not tell."""
    if content[4:8] == b"ftyp" and content[8:12] in BRANDS:
        return BRANDS[content[8:12]]
    if PICKLE.match(content):
        return "a pickle"
    if BASE64.match(content):
        return "base64 text"
    if PATH.fullmatch(content):
        return "a path"
    return next((kind for mark, kind in IMAGES.items() if content.startswith(mark)), "")


class Unread:
    """Notes the images of raw pairs that are of a format which is not read."""

    def __init__(self) -> None:
        self.first = ("", "")  # where the first one is, and its kind
        self.names: set[str] = set()

    def add(self, name: str, content: bytes, where: str) -> None:
        """Look at an image.

        Args:
            name: its own, however often it is shown.
            where: what its table calls it.
        """
        kind = held_by(content)
        if kind and not self.names:
            self.first = (where, kind)
        if kind:
            self.names.add(name)

    def sentence(self) -> str:
        """Say which they are, and what to do."""
        where, kind = self.first
        total = len(self.names)
        count = f" (one of {total:,} such images)" if total > 1 else ""
        remedy = "save it as JPEG, PNG or WebP"
        if kind not in FORMATS:
            remedy = "put the image's own bytes there, for example by fetching it again"
        return (
            f"{where} is {kind}{count}, which is not read, so the encoder leaves its pairs out; {remedy}, and import "
            "again"
        )
