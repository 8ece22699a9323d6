"""Read a source of groups (groups.py): its images, each once, and their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from infra.base.errors import UserError
from pipelines.raw import groups
from pipelines.raw.raw_table import RawTable, as_written, column_names


def read_images(path: str, names: Sequence[str]) -> Iterator[pa.Table]:
    """Read the images of one file of groups, each once: columns of groups.IMAGE_SCHEMA; see read_pieces."""
    wanted = ["caption", groups.GROUP, *groups.UIDS, *groups.IMAGES, "model_0", "model_1"]
    for table in groups.each_image(as_written(path, wanted, column_names(path))):
        yield table.select(list(names))


def count_images(raw: RawTable) -> int:
    """Count the images of a source of groups, each once; 0 of a source of pairs.

    Raises:
        UserError: if a file has no groups although others have, or images without names, or a group's rows do not
            stand together.
    """
    if groups.GROUP not in raw.names:
        return 0
    check = groups.GroupCheck()
    for part in raw.parts:
        lacking = [name for name in (groups.GROUP, *groups.UIDS) if name not in part.names]
        if lacking:
            raise UserError(f"{part.path}: no column {lacking[0]}; pairs with {groups.GROUP} name their images")
        for piece in as_written(part.path, [groups.GROUP, *groups.UIDS], part.names):
            check.add(part.path, piece)
        check.end()
    return check.images
