"""Comparisons of two images, and images with ranks: what every table becomes, and the checks of a row's values.

Ranked images of a group become every pair of it: the better rank wins, and equal ranks tie.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from infra.base import files, logs
from infra.base.errors import UserError
from pipelines.raw.pairs import check_caption, hash64

URLS = ("http://", "https://")
DATA = "data:"  # begins an address that holds what it stands for
LOCAL = "file://"
MOST = 1024  # characters of an image's path
UNKNOWN = "imported"  # stands for the model that drew an image
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two images of a caption, one better, or both equal."""

    place: str  # in the table, for example "line 2"
    caption: str
    names: tuple[str, str]  # of the images in slot 0 and 1, below the folder of images
    label_0: float
    group: str | None = None  # whose comparisons share images
    votes: tuple[float, float] | None = None  # of several people, for slot 0 and slot 1: numbers or shares
    models: tuple[str, str] = (UNKNOWN, UNKNOWN)


@dataclass(frozen=True, kw_only=True)
class RankedImage:
    """One image of a group, and how good it is beside the others there."""

    place: str
    caption: str
    name: str
    worth: float  # higher is better
    group: str


def caption_of(value: object, place: str) -> str:
    """Return a caption that the encoder takes.

    Raises:
        UserError: naming the row.
    """
    refusal = check_caption(value)
    if refusal:
        raise UserError(f"{place}: {refusal.reason}")
    return str(value)


def image_name(value: object, column: str, place: str) -> str:
    """Return an image's path below the folder of images, one spelling of each: x.png for ./x.png.

    Raises:
        UserError: naming the row, if it is no path.
    """
    if not isinstance(value, str) or not value or not _is_unicode(value):
        raise UserError(f"{place}: {column} is {'empty' if value in ('', None) else 'not text'}")
    if value.lower().startswith(URLS):
        raise UserError(
            f"{place}: {column} is a URL, and no image is fetched from one: an address may go, or show another image "
            "later; download the images, for example with img2dataset, and give their paths"
        )
    if value.lower().startswith(DATA) or len(value) > MOST:
        what = "a data URI" if value.lower().startswith(DATA) else f"a text of {len(value):,} characters and no path"
        raise UserError(
            f"{place}: {column} is {what}; write the images as files and give their paths, or as bytes into Parquet"
        )
    return str(PurePosixPath(value.removeprefix(LOCAL)))


def _is_unicode(text: str) -> bool:
    """Say whether UTF-8 can hold a text; JSON's escapes can make one that it cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def image_path(images: str, name: str) -> str | None:
    """Return the path of an image, or None where the folder has none of that name or the name leads out of it.

    The name may be the whole path of an image in the folder, or have Windows' backslashes.
    """
    spellings = (name, name.replace("\\", "/")) if "\\" in name else (name,)
    for inside in map(PurePosixPath, spellings):
        if inside.is_absolute() and inside.is_relative_to(images):
            inside = inside.relative_to(images)
        if inside.is_absolute() or ".." in inside.parts:
            continue
        path = files.join(images, str(inside))
        if files.is_file(path):
            return path
    return None


def number(value: object, column: str, place: str) -> float:
    """Return a finite number, also one that is written as text.

    Raises:
        UserError: naming the row.
    """
    try:
        read = float(value) if isinstance(value, (int, float, str)) else math.nan
    except ValueError:
        read = math.nan
    if value in (None, ""):
        raise UserError(f"{place}: {column} is empty; write a number, or take the row out")
    if not math.isfinite(read):
        raise UserError(f"{place}: {column} is {str(value)[:40]!r}, not a number")
    return read


def lists(row: Row, columns: tuple[str, str], place: str) -> list[tuple[Any, Any]]:
    """Pair the entries of two columns of lists.

    Raises:
        UserError: naming the row.
    """
    both = [row[name] for name in columns]
    if not all(isinstance(one, list) for one in both) or len(both[0]) != len(both[1]):
        raise UserError(f"{place}: {' and '.join(columns)} are not two lists of equal length")
    return list(zip(*both, strict=True))


def of_prompt(caption: str) -> str:
    """Name the group of all images of a caption."""
    return f"prompt {hash64(caption.encode()):x}"


def in_hidden_slots(one: Comparison) -> Comparison:
    """Give two images their slots by a hash of their names, so that a slot does not tell the label."""
    ordered = sorted(one.names)
    if hash64(b"slots", *(name.encode() for name in ordered)) % 2:
        ordered.reverse()
    return one if ordered[0] == one.names[0] else _turned(one)


def _turned(one: Comparison) -> Comparison:
    """Put slot 0's image into slot 1, and slot 1's into slot 0."""
    return Comparison(
        place=one.place,
        caption=one.caption,
        names=one.names[::-1],
        label_0=1 - one.label_0,
        group=one.group,
        votes=None if one.votes is None else one.votes[::-1],
        models=one.models[::-1],
    )


def all_pairs(images: Sequence[RankedImage], table: str) -> list[Comparison]:
    """Compare every two images of each group.

    Raises:
        UserError: if a group has two captions or an image twice, or no group has two images.
    """
    groups: dict[str, list[RankedImage]] = {}
    for image in images:
        groups.setdefault(image.group, []).append(image)
    compared = []
    for group, own in groups.items():
        _check_group(own)
        for one, other in itertools.combinations(own, 2):
            label = 0.5 + (one.worth > other.worth) / 2 - (one.worth < other.worth) / 2
            names = (one.name, other.name)
            pair = Comparison(place=other.place, caption=one.caption, names=names, label_0=label, group=group)
            compared.append(in_hidden_slots(pair))
    if not compared:
        raise UserError(f"{table}: no group has two images; images with one caption, or one group, are compared")
    alone = [own[0] for own in groups.values() if len(own) == 1]
    if alone:
        logs.LOGGER.warning(
            f"{alone[0].place}: {alone[0].name} is the only image of its caption or group, so nothing is compared with "
            f"it; left out so: {len(alone)} of {len(images)} images. Look for captions that differ by a letter or space"
        )
    return compared


def _check_group(own: Sequence[RankedImage]) -> None:
    names: set[str] = set()
    for image in own:
        if image.caption != own[0].caption:
            raise UserError(
                f"{image.place}: another caption than that of {own[0].place.rpartition(': ')[2]}, which "
                f"is of the same group; a group has one caption"
            )
        if image.name in names:
            raise UserError(
                f"{image.place}: the image {image.name} stands twice in its group; where several people rated it, "
                "give each person's rows of a caption a group of their own, in the column group"
            )
        names.add(image.name)
