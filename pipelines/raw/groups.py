"""Raw groups: pairs that share images. A source whose pairs have a group_id is a source of groups.

A group is a caption and K images of it, of which any two may be a pair. Its rows stand together in one file. Of an
image, the first row that shows it needs its bytes; they may be null in the group's later rows. So K images are stored
K times, and not K (K - 1) times. Every reader of raw pairs gets the bytes back in each row (`filled`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base.errors import UserError
from pipelines.raw import pairs
from pipelines.raw.pairs import GROUP, Refusal, hash64

SLOTS = (0, 1)
UIDS = ("image_0_uid", "image_1_uid")
IMAGES = ("jpg_0", "jpg_1")
BYTES_AT_ONCE = 32 << 20  # of images, filled in
IMAGE_SCHEMA = pa.schema(
    [
        ("group_id", pa.string()),
        ("image_uid", pa.string()),
        ("caption", pa.string()),
        ("model", pa.string()),
        ("jpg", pa.binary()),
    ]
)
STAGE = "group"  # of a row that is refused for its group


def _bytes(value: object) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


def group_key(group_id: object) -> int:
    """Return the 64-bit key of a group, which its draws are made from."""
    return hash64(b"group", _bytes(group_id))


def image_key(group_id: object, uid: object) -> int:
    """Return the 64-bit id of an image: of its group and its name there, not of its bytes."""
    return hash64(b"image", _bytes(group_id), _bytes(uid))


def image_ids(table: pa.Table) -> npt.NDArray[np.int64]:
    """Return the id of each row of read_images: [rows] int64."""
    rows = zip(pairs.values(table[GROUP]), pairs.values(table["image_uid"]), strict=True)
    return np.array([image_key(group, uid) for group, uid in rows], np.int64)


def refusal(row: dict[str, object], first_caption: object) -> Refusal | None:
    """Refuse a pair whose group or images have no name, or whose caption is another than its group's first.

    Args:
        row: of raw pairs.
        first_caption: of the group's first row.
    """
    for name in (GROUP, *UIDS):
        if not isinstance(row[name], str):
            return Refusal(STAGE, f"{name} is {'null' if row[name] is None else 'not UTF-8 text'}")
    if row[UIDS[0]] == row[UIDS[1]]:
        return Refusal(STAGE, "the same image stands in both slots")
    if row["caption"] != first_caption:
        return Refusal(STAGE, "its caption is not that of its group's first row")
    return None


def filled(pieces: Iterable[pa.Table], names: list[str]) -> Iterator[pa.Table]:
    """Give every row of a file its images' bytes, from the first row of its group that shows them.

    Args:
        pieces: of the file, in its order, with group_id, uids and images.
        names: the columns to return.
    """
    held: dict[object, bytes | None] = {}
    current: object = None
    for piece in pieces:
        ids = pairs.values(piece[GROUP])
        uids = [pairs.values(piece[name]) for name in UIDS]
        images: list[list[bytes | None]] = [piece[name].to_pylist() for name in IMAGES]
        start = 0
        size = 0
        for row, group in enumerate(ids):
            if group != current:
                current = group
                held = {}
            for slot in SLOTS:
                uid = uids[slot][row]
                if group is not None and uid is not None:
                    # The first bytes are the image's, whatever stands here.
                    held[uid] = held.get(uid) or images[slot][row]
                    images[slot][row] = held[uid]
                size += len(images[slot][row] or b"")
            if size >= BYTES_AT_ONCE:
                yield _with_images(piece, images, start, row + 1).select(names)
                start = row + 1
                size = 0
        if start < piece.num_rows or not piece.num_rows:
            yield _with_images(piece, images, start, piece.num_rows).select(names)


def _with_images(piece: pa.Table, images: list[list[bytes | None]], start: int, stop: int) -> pa.Table:
    part = piece.slice(start, stop - start)
    for name, content in zip(IMAGES, images, strict=True):
        place = part.schema.get_field_index(name)
        part = part.set_column(place, name, pa.array(content[start:stop], pa.binary()))
    return part


def each_image(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Turn a file's pairs into its images, each once, as IMAGE_SCHEMA says; rows without a name are passed over.

    Args:
        pieces: of the file, in its order, with group_id, uids, images, caption and models.
    """
    rows: list[dict[str, object]] = []
    size = 0
    seen: dict[object, dict[str, object]] = {}  # images of the group that is being read, by uid
    current: object = None
    for piece in pieces:
        for row in pairs.as_rows(piece):
            if not isinstance(row[GROUP], str):
                continue
            if row[GROUP] != current:
                rows += seen.values()
                seen = {}
                current = row[GROUP]
                if size >= BYTES_AT_ONCE:
                    yield _images_table(rows)
                    rows = []
                    size = 0
            for slot in SLOTS:
                size += _add_image(seen, row, slot)
    rows += seen.values()
    yield _images_table(rows)


def _add_image(seen: dict[object, dict[str, object]], row: dict[str, object], slot: int) -> int:
    """Note an image of a row, or its bytes where none were known; returns the number of bytes that were added."""
    uid = row[UIDS[slot]]
    if not isinstance(uid, str):
        return 0
    content = row[IMAGES[slot]]
    about = {"group_id": row[GROUP], "caption": row["caption"], "model": row.get(f"model_{slot}")}
    known = seen.setdefault(uid, {**about, "image_uid": uid, "jpg": None})
    if not isinstance(content, bytes):
        return 0
    if known["jpg"] is not None:
        if known["jpg"] != content:
            raise UserError(
                f"{GROUP} {str(row[GROUP])[:60]}: two images of it have the name {uid[:60]} and other bytes; give each "
                f"image of a group a name of its own in {UIDS[0]} and {UIDS[1]}"
            )
        return 0
    known["jpg"] = content
    return len(content)


def _images_table(rows: list[dict[str, object]]) -> pa.Table:
    """Lay out images; a caption or model that is no UTF-8 becomes null: pairs are refused for that caption."""
    for row in rows:
        for name in ("caption", "model"):
            row[name] = row[name] if isinstance(row[name], str) else None
    return pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA)


@dataclass
class GroupCheck:
    """Looks at every row of a source of groups, in order, and counts its images."""

    images: int = 0
    _finished: set[int] = field(default_factory=set)
    _current: object = None
    _uids: set[object] = field(default_factory=set)

    def add(self, path: str, piece: pa.Table) -> None:
        """Look at rows of a file: group_id and uids.

        Raises:
            UserError: if a group's rows do not stand together.
        """
        columns = [pairs.values(piece[name]) for name in (GROUP, *UIDS)]
        for group, *uids in zip(*columns, strict=True):
            if group != self._current:
                self._begin(path, group)
            if isinstance(group, str):
                self._uids.update(uid for uid in uids if isinstance(uid, str))

    def _begin(self, path: str, group: object) -> None:
        self.end()
        key = group_key(group)
        if key in self._finished:
            raise UserError(
                f"{path}: the rows of {GROUP} {str(group)[:60]} do not stand together; sort the pairs by {GROUP}, and "
                "keep a group in one file"
            )
        self._current = group

    def end(self) -> None:
        """Finish the group that was being read, as a file's end does too."""
        if self._current is not None:
            self._finished.add(group_key(self._current))
        self.images += len(self._uids)
        self._uids = set()
        self._current = None
