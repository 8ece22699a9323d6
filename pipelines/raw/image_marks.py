"""What bytes that are no image in a format that is read say of themselves by how they begin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
        self.kinds: dict[str, str] = {}  # by name

    def add(self, pair: Mapping[str, Any]) -> None:
        """Look at a pair's two images, as far as they stand in it."""
        for slot in (0, 1):
            kind = held_by(pair[f"jpg_{slot}"] or b"")
            if kind:
                self.kinds[pair[f"image_{slot}_uid"]] = kind

    def sentence(self) -> str:
        """Say which they are, and what to do."""
        name, kind = next(iter(self.kinds.items()))
        total = len(self.kinds)
        count = f" (one of {total:,} such images)" if total > 1 else ""
        return (
            f"{name} is {kind}{count}, which is not read, so the encoder leaves its pairs out; save it as JPEG, PNG or "
            "WebP, and import again"
        )
