"""What the rows of an imported table mean: comparisons of two images, or images with ranks or ratings.

The columns tell the layout: two of our own, and those of the public preference sets (published_layouts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from infra.base.errors import UserError
from pipelines.raw import published_layouts as published
from pipelines.raw.comparisons import (
    Comparison,
    RankedImage,
    Row,
    all_pairs,
    caption_of,
    image_name,
    in_hidden_slots,
    number,
)
from pipelines.raw.pairs import check_label, hash64, label_of_text

COLUMNS = ("caption", "image_0", "image_1", "label_0")
LABELS = "write 1 where image_0 is better, 0 where image_1 is, and 0.5 for a tie"
RANKED_COLUMNS = ("caption", "image", "rank", "rating", "group")  # group may lack, and one of rank and rating
IMAGES = ("image_0", "image_1")
VOTES = ("votes_0", "votes_1")  # of several people, for image_0 and image_1; they may stand in label_0's place
VOTED_COLUMNS = ("caption", *IMAGES, *VOTES)
NUMBERS = ("label_0", "rank", "rating", *VOTES)
IMAGE = "image"  # of a ranked table


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A way to write comparisons down, told by its columns."""

    name: str
    columns: tuple[str, ...]
    read: Callable[[Row, str], Iterable[Comparison | RankedImage]]
    images: tuple[str, str] | None = None  # columns that hold the images of a pair themselves
    has_votes: bool = False  # of a layout with images: whether its rows may have votes, so each pair has a soft label


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
    read = [_with_paths(layout, one, row) for place, row in rows for one in read_row(layout, row, f"{table}: {place}")]
    compared = [one for one in read if isinstance(one, Comparison)]
    if not compared:
        compared = all_pairs([one for one in read if isinstance(one, RankedImage)], table)
    groups = {one.group: place for place, one in reversed(list(enumerate(compared)))}
    return layout.name, sorted(compared, key=lambda one: groups[one.group] if one.group is not None else 0)


def _with_paths(layout: Layout, one: Comparison | RankedImage, row: Row) -> Comparison | RankedImage:
    """Name the images of a layout that has them in its columns by the paths that stand there, as in text they do."""
    if layout.images is None or not isinstance(one, Comparison):
        return one
    first, second = layout.images
    names = (image_name(row[first], first, one.place), image_name(row[second], second, one.place))
    return in_hidden_slots(replace(one, names=names))


def read_row(layout: Layout, row: Any, place: str) -> Iterable[Comparison | RankedImage]:
    """Read one row.

    Raises:
        UserError: naming the row that does not do.
    """
    if not isinstance(row, dict):
        raise UserError(f"{place}: not an object with {', '.join(layout.columns)}")
    missing = [name for name in layout.columns if name not in row]
    if missing:
        is_other = layout is LAYOUTS[0] and not any(name in row for name in IMAGES)
        ranked = "; a ranking has a row for each image, with caption, image, and rank or rating" if is_other else ""
        raise UserError(
            f"{place}: no {', '.join(missing)}; it has {', '.join(map(str, row)) or 'nothing'}, and each row needs "
            f"{', '.join(layout.columns)}{ranked}"
        )
    return layout.read(row, place)


def _own_pair(row: Row, place: str) -> Iterator[Comparison]:
    label_0, votes = _label_and_votes(row, place)
    caption = caption_of(row["caption"], place)
    names = (image_name(row["image_0"], "image_0", place), image_name(row["image_1"], "image_1", place))
    yield Comparison(place=place, caption=caption, names=names, label_0=label_0, votes=votes)


def _own_pair_with_images(row: Row, place: str) -> Iterator[Comparison]:
    label_0, votes = _label_and_votes(row, place)
    yield Comparison(place=place, caption=caption_of(row["caption"], place), names=IMAGES, label_0=label_0, votes=votes)


def _label_and_votes(row: Row, place: str) -> tuple[float, tuple[float, float] | None]:
    """Read a label_0, which is the row's own or what most votes are for, and the votes where there are some."""
    votes = _own_votes(row, place)
    if row.get("label_0") not in (None, "") or VOTES[0] not in row:
        return own_label(row["label_0"], place), votes
    if votes is None:
        raise UserError(f"{place}: has neither a label_0 nor a vote; take the row out")
    return published.won_by(votes), votes


def _own_votes(row: Row, place: str) -> tuple[float, float] | None:
    """Read how many people were for either image; None where nobody was, or the table does not say."""
    given = [row.get(name) for name in VOTES]
    if all(value in (None, "") for value in given):
        return None
    missing = [name for name in VOTES if name not in row]
    if missing:
        raise UserError(f"{place}: no column {missing[0]}; votes need {' and '.join(VOTES)}, one for each image")
    return published.votes_of(
        [number(value, name, place) for name, value in zip(VOTES, given, strict=True)], " and ".join(VOTES), place
    )


def own_label(label: object, place: str) -> float:
    """Return a label_0, also one that is written as text.

    Raises:
        UserError: naming the row, if it is not 0, 0.5 or 1.
    """
    if isinstance(label, str):  # all that a CSV knows
        try:
            label = label_of_text(label)
        except ValueError:
            raise UserError(f"{place}: label_0 is {label!r}, not 0, 0.5 or 1; {LABELS}") from None
    refusal = check_label(label, None, strict=False)
    if refusal:
        raise UserError(f"{place}: {refusal.reason}; {LABELS}")
    return float(label)  # type: ignore[arg-type]  # check_label refuses all but numbers


def _own_image(column: str, sign: float) -> Callable[[Row, str], Iterator[RankedImage]]:
    def read(row: Row, place: str) -> Iterator[RankedImage]:
        if row.get("rank") is not None and row.get("rating") is not None:
            raise UserError(f"{place}: has both a rank and a rating; keep the column that decides")
        caption = caption_of(row["caption"], place)
        group = row.get("group")
        yield RankedImage(
            place=place,
            caption=caption,
            name=image_name(row["image"], "image", place),
            worth=sign * number(row[column], column, place),
            group=f"caption {hash64(caption.encode()):x}" if group in (None, "") else str(group),
        )

    return read


WITH_IMAGES = Layout(
    name="comparisons with their images", columns=COLUMNS, read=_own_pair_with_images, images=IMAGES
)  # a Parquet file's types tell it from OWN
OWN = (
    Layout(name="comparisons", columns=COLUMNS, read=_own_pair),
    Layout(name="comparisons by votes", columns=VOTED_COLUMNS, read=_own_pair),
)
LAYOUTS = (
    *OWN,
    Layout(
        name="ImageRewardDB",
        columns=("prompt_id", "prompt", "image_path", "rank", "image_amount_in_total"),
        read=published.image_reward_image,
    ),
    Layout(name="images with ranks", columns=("caption", "image", "rank"), read=_own_image("rank", -1.0)),
    Layout(name="images with ratings", columns=("caption", "image", "rating"), read=_own_image("rating", 1.0)),
    Layout(
        name="HPDv2, pairs",
        columns=("prompt", "image_path", "human_preference"),
        read=published.hpdv2_pair("image_path"),
    ),
    Layout(
        name="HPDv2, pairs",
        columns=("prompt", "file_path", "human_preference"),
        read=published.hpdv2_pair("file_path"),
    ),
    Layout(name="HPDv2, rankings", columns=("prompt", "image_path", "rank"), read=published.hpdv2_ranking),
    Layout(name="HPDv3", columns=("prompt", "path1", "path2"), read=published.hpdv3_pair),
    Layout(
        name="Open Image Preferences",
        columns=("prompt", *published.CHOSEN),
        read=published.open_preference,
        images=published.CHOSEN,
    ),
    Layout(
        name="Rapidata with votes",
        columns=("prompt", *published.NUMBERED, *published.VOTES),
        read=published.voted_pair,
        images=published.NUMBERED,
        has_votes=True,
    ),
    Layout(
        name="Rapidata with shares of votes",
        columns=("prompt", *published.NUMBERED),
        read=published.shared_pair,
        images=published.NUMBERED,
        has_votes=True,
    ),
)
