"""What the rows of an imported table mean: comparisons of two images, or images with ranks or ratings.

The columns tell the layout: two of our own, and those of HPDv2, HPDv3 and ImageRewardDB as they are published. Ranked
images of a group become every pair of it: the better rank wins, and equal ranks tie.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from infra.base import logs
from infra.base.errors import UserError
from pipelines.raw.pairs import check_caption, check_label, hash64

COLUMNS = ("caption", "image_0", "image_1", "label_0")
RANKED_COLUMNS = ("caption", "image", "rank", "rating", "group")  # group may lack, and one of rank and rating
NUMBERS = ("label_0", "rank", "rating")
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two images of a caption, one better, or both equal."""

    place: str  # in the table, for example "line 2"
    caption: str
    names: tuple[str, str]  # of the images in slot 0 and 1, below the folder of images
    label_0: float
    group: str | None = None  # whose comparisons share images


@dataclass(frozen=True, kw_only=True)
class RankedImage:
    """One image of a group, and how good it is beside the others there."""

    place: str
    caption: str
    name: str
    worth: float  # higher is better
    group: str


@dataclass(frozen=True)
class Layout:
    """A way to write comparisons down, told by its columns."""

    name: str
    columns: tuple[str, ...]
    read: Callable[[Row, str], Iterable[Comparison | RankedImage]]


def columns_of(header: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that a table with this header must have."""
    layout = layout_of(header)
    if layout is not None:
        return layout.columns
    return ("caption", "image", "rank") if "image" in header and "image_0" not in header else COLUMNS


def layout_of(names: Iterable[str]) -> Layout | None:
    """Find the first layout whose columns are all there."""
    there = set(names)
    return next((layout for layout in LAYOUTS if there.issuperset(layout.columns)), None)


def comparisons_of(rows: Sequence[tuple[str, Any]], table: str) -> tuple[str, list[Comparison]]:
    """Turn a table's rows into comparisons; those of a group stand together.

    Args:
        table: what a refusal begins with.

    Returns:
        The layout's name, and the comparisons.

    Raises:
        UserError: naming the table and the row that does not do.
    """
    first = rows[0][1]
    layout = (layout_of(first) if isinstance(first, dict) else None) or LAYOUTS[0]
    read = [one for place, row in rows for one in _read(layout, row, f"{table}: {place}")]
    compared = [one for one in read if isinstance(one, Comparison)]
    if not compared:
        compared = _all_pairs([one for one in read if isinstance(one, RankedImage)], table)
    groups = {one.group: place for place, one in reversed(list(enumerate(compared)))}
    return layout.name, sorted(compared, key=lambda one: groups[one.group] if one.group is not None else 0)


def _read(layout: Layout, row: Any, place: str) -> Iterable[Comparison | RankedImage]:
    if not isinstance(row, dict):
        raise UserError(f"{place}: not an object with {', '.join(layout.columns)}")
    missing = [name for name in layout.columns if name not in row]
    if missing:
        raise UserError(f"{place}: no {', '.join(missing)}")
    return layout.read(row, place)


def _caption(value: object, place: str) -> str:
    refusal = check_caption(value)
    if refusal:
        raise UserError(f"{place}: {refusal.reason}")
    return str(value)


def _name(row: Row, column: str, place: str) -> str:
    return _image_name(row[column], column, place)


def _image_name(value: object, column: str, place: str) -> str:
    if not isinstance(value, str) or not value or not _is_unicode(value):
        raise UserError(f"{place}: {column} is {'empty' if value in ('', None) else 'not text'}")
    return value


def _is_unicode(text: str) -> bool:
    """Say whether UTF-8 can hold a text; JSON's escapes can make one that it cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _number(value: object, column: str, place: str) -> float:
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{place}: {column} is {str(value)[:40]!r}, not a number")
    return number


def _lists(row: Row, columns: tuple[str, str], place: str) -> list[tuple[Any, Any]]:
    """Pair the entries of two columns of lists."""
    both = [row[name] for name in columns]
    if not all(isinstance(one, list) for one in both) or len(both[0]) != len(both[1]):
        raise UserError(f"{place}: {' and '.join(columns)} are not two lists of equal length")
    return list(zip(*both, strict=True))


def _own_pair(row: Row, place: str) -> Iterator[Comparison]:
    label = row["label_0"]
    if isinstance(label, str):  # all that a CSV knows
        try:
            label = float(label)
        except ValueError:
            raise UserError(f"{place}: label_0 is {label!r}, not 0, 0.5 or 1") from None
    caption = _caption(row["caption"], place)
    refusal = check_label(label, None, strict=False)
    if refusal:
        raise UserError(f"{place}: {refusal.reason}")
    names = (_name(row, "image_0", place), _name(row, "image_1", place))
    yield Comparison(place=place, caption=caption, names=names, label_0=float(label))


def _own_image(column: str, sign: float) -> Callable[[Row, str], Iterator[RankedImage]]:
    def read(row: Row, place: str) -> Iterator[RankedImage]:
        if row.get("rank") is not None and row.get("rating") is not None:
            raise UserError(f"{place}: has both a rank and a rating; keep the column that decides")
        caption = _caption(row["caption"], place)
        group = row.get("group")
        yield RankedImage(
            place=place,
            caption=caption,
            name=_name(row, "image", place),
            worth=sign * _number(row[column], column, place),
            group=f"caption {hash64(caption.encode()):x}" if group in (None, "") else str(group),
        )

    return read


def _of_prompt(caption: str) -> str:
    return f"prompt {hash64(caption.encode()):x}"


def _hpdv2_pair(column: str) -> Callable[[Row, str], Iterator[Comparison]]:
    def read(row: Row, place: str) -> Iterator[Comparison]:
        caption = _caption(row["prompt"], place)
        shown = _lists(row, (column, "human_preference"), place)
        votes = [vote for _, vote in shown]
        if len(shown) != 2 or any(vote not in (0, 1) for vote in votes):
            raise UserError(f"{place}: human_preference is {str(votes)[:40]}; it has a 0 or 1 for each of two images")
        names = [_image_name(name, column, place) for name, _ in shown]
        yield Comparison(
            place=place,
            caption=caption,
            names=(names[0], names[1]),
            label_0=(1 + votes[0] - votes[1]) / 2,
            group=_of_prompt(caption),
        )

    return read


def _hpdv2_ranking(row: Row, place: str) -> Iterator[RankedImage]:
    caption = _caption(row["prompt"], place)
    for name, rank in _lists(row, ("image_path", "rank"), place):
        yield RankedImage(
            place=place,
            caption=caption,
            name=_image_name(name, "image_path", place),
            worth=-_number(rank, "rank", place),
            group=f"{_of_prompt(caption)} of {place.rpartition(': ')[2]}",
        )


def _hpdv3_pair(row: Row, place: str) -> Iterator[Comparison]:
    """Read a pair whose path1 is the preferred image; which slot it gets depends on the names alone."""
    caption = _caption(row["prompt"], place)
    names = (_name(row, "path1", place), _name(row, "path2", place))
    yield _hidden(place, caption, names, 1.0, _of_prompt(caption))


def _image_reward_image(row: Row, place: str) -> Iterator[RankedImage]:
    """Read an image of ImageRewardDB, whose files lie beside its JSON, under the last part of their path."""
    yield RankedImage(
        place=place,
        caption=_caption(row["prompt"], place),
        name=PurePosixPath(_name(row, "image_path", place)).name,
        worth=-_number(row["rank"], "rank", place),
        group=f"prompt {_name(row, 'prompt_id', place)}",
    )


def _hidden(place: str, caption: str, names: tuple[str, str], label_0: float, group: str) -> Comparison:
    """Give two images their slots by a hash of their names, so that a slot does not tell the label."""
    ordered = sorted(names)
    if hash64(b"slots", *(name.encode() for name in ordered)) % 2:
        ordered.reverse()
    if ordered[0] != names[0]:
        label_0 = 1 - label_0
    return Comparison(place=place, caption=caption, names=(ordered[0], ordered[1]), label_0=label_0, group=group)


def _all_pairs(images: Sequence[RankedImage], table: str) -> list[Comparison]:
    """Compare every two images of each group.

    Raises:
        UserError: if a group has two captions or an image twice, or no group has two images.
    """
    groups: dict[str, list[RankedImage]] = {}
    for image in images:
        groups.setdefault(image.group, []).append(image)
    compared = []
    for group, own in groups.items():
        names: set[str] = set()
        for image in own:
            if image.caption != own[0].caption:
                raise UserError(
                    f"{image.place}: another caption than that of {own[0].place.rpartition(': ')[2]}, which "
                    f"is of the same group; a group has one caption"
                )
            if image.name in names:
                raise UserError(f"{image.place}: the image {image.name} stands twice in its group")
            names.add(image.name)
        for one, other in itertools.combinations(own, 2):
            label = 0.5 + (one.worth > other.worth) / 2 - (one.worth < other.worth) / 2
            compared.append(_hidden(other.place, one.caption, (one.name, other.name), label, group))
    if not compared:
        raise UserError(f"{table}: no group has two images; images with one caption, or one group, are compared")
    alone = [own[0] for own in groups.values() if len(own) == 1]
    if alone:
        logs.LOGGER.warning(
            f"{alone[0].place}: {alone[0].name} is the only image of its caption or group, so nothing is compared with "
            f"it; left out so: {len(alone)} of {len(images)} images. Look for captions that differ by a letter or space"
        )
    return compared


LAYOUTS = (
    Layout("comparisons", COLUMNS, _own_pair),
    Layout(
        "ImageRewardDB", ("prompt_id", "prompt", "image_path", "rank", "image_amount_in_total"), _image_reward_image
    ),
    Layout("images with ranks", ("caption", "image", "rank"), _own_image("rank", -1.0)),
    Layout("images with ratings", ("caption", "image", "rating"), _own_image("rating", 1.0)),
    Layout("HPDv2, pairs", ("prompt", "image_path", "human_preference"), _hpdv2_pair("image_path")),
    Layout("HPDv2, pairs", ("prompt", "file_path", "human_preference"), _hpdv2_pair("file_path")),
    Layout("HPDv2, rankings", ("prompt", "image_path", "rank"), _hpdv2_ranking),
    Layout("HPDv3", ("prompt", "path1", "path2"), _hpdv3_pair),
)
