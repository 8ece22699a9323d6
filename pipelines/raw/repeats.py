"""Comparisons that a source holds more than once, in either order of the two images, and those that disagree."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.raw import pairs

COLUMNS = ("caption", "label_0", pairs.GROUP)  # read beside those that name a pair
TOLD_BY = (("image_0_uid", "image_1_uid"), ("jpg_0", "jpg_1"))  # what tells images apart, the first that a row has
# Beside 0 and 1 for the image that won, of the two in the order of their identities:
UNDECIDED = 2
ONE_IMAGE = 3
UNKNOWN = 4

Places = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]  # of earlier rows, and of those that repeat them


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Rows of a source that say again what an earlier row says, or its opposite; the first row is 0."""

    repeated: int = 0  # the caption and images of an earlier row
    disagreeing: int = 0  # of these, another winner than the first decided one
    same_images: int = 0  # one image in both slots
    sentences: tuple[str, ...] = ()  # that say so, with the first such rows


@dataclass
class Seen:
    """What is remembered of each row, in 9 bytes: a hash of its caption and images, and which image won."""

    keys: list[npt.NDArray[np.int64]] = field(default_factory=list)
    winners: list[npt.NDArray[np.uint8]] = field(default_factory=list)

    def add(self, piece: pa.Table) -> None:
        """Remember the next rows of a source; one without caption, or whose images were not read, is passed over."""
        keys = np.zeros(piece.num_rows, np.int64)
        winners = np.full(piece.num_rows, UNKNOWN, np.uint8)
        for row, values in enumerate(pairs.as_rows(piece)):
            images = _identities(values)
            caption = values["caption"]
            if images is not None and isinstance(caption, str):
                group = _bytes(values.get(pairs.GROUP))  # within which uids name images, where there is one
                keys[row] = pairs.hash64(group, caption.encode("utf-8", "surrogatepass"), *sorted(images))
                winners[row] = _winner(values["label_0"], images)
        self.keys.append(keys)
        self.winners.append(winners)

    def count(self) -> Repeats:
        """Compare all rows with those before them."""
        keys = np.concatenate([np.empty(0, np.int64), *self.keys])
        winners = np.concatenate([np.empty(0, np.uint8), *self.winners])
        again = _later(keys, winners != UNKNOWN)
        before, after = _later(keys, winners < UNDECIDED)
        others = winners[before] != winners[after]
        against = (before[others], after[others])
        same = np.flatnonzero(winners == ONE_IMAGE)
        return Repeats(
            repeated=len(again[0]),
            disagreeing=len(against[0]),
            same_images=len(same),
            sentences=tuple(_sentences(again, against, same)),
        )


def _identities(row: dict[str, object]) -> tuple[bytes, bytes] | None:
    """Tell a row's two images: by their uids, or by their bytes where it has none and they were read."""
    for names in TOLD_BY:
        one = _bytes(row.get(names[0]))
        other = _bytes(row.get(names[1]))
        if one and other:
            return one, other
    return None


def _bytes(value: object) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


def _winner(label_0: object, images: tuple[bytes, bytes]) -> int:
    if images[0] == images[1]:
        return ONE_IMAGE
    if label_0 not in (0.0, 1.0):
        return UNDECIDED
    return int((label_0 == 0.0) != (images[0] > images[1]))


def _later(keys: npt.NDArray[np.int64], looked_at: npt.NDArray[np.bool_]) -> Places:
    """Return the rows, of those looked at, whose key an earlier one has; each behind the first with this key."""
    places = np.flatnonzero(looked_at)
    _, first, group = np.unique(keys[places], return_index=True, return_inverse=True)
    again = np.flatnonzero(first[group] != np.arange(len(places)))
    return places[first[group[again]]], places[again]


def _sentences(again: Places, against: Places, same: npt.NDArray[np.int64]) -> list[str]:
    said = []
    if len(again[0]):
        said.append(
            f"rows with the caption and images of an earlier row, each kept: {len(again[0]):,} "
            f"(row {again[1][0]} has those of row {again[0][0]}, counted from 0)"
        )
    if len(against[0]):
        said.append(
            f"of these, rows that prefer the other image: {len(against[0]):,} "
            f"(row {against[1][0]} against row {against[0][0]})"
        )
    if len(same):
        said.append(f"rows with one image in both slots, which teach nothing: {len(same):,} (row {same[0]})")
    return said
