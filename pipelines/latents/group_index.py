"""The index of a store of groups: where each image lies, and which two of them a pair shows.

index/images.arrow        image_id, part, row, checksum; in the order of their ids
index/image_parts.arrow   as pair_parts.arrow has it, of the files of images
index/pairs.arrow         pair_id, image_0 and image_1 (rows of images.arrow), group_id, caption (a row of captions)
index/captions.arrow, index/caption_parts.arrow   as in a store of pairs
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base import files
from infra.base.errors import UserError
from pipelines.latents import store
from pipelines.latents.addresses import (
    CAPTION_PARTS,
    CAPTIONS,
    PAIRS,
    Located,
    index_of,
    write_arrow,
)

IMAGES = "index/images.arrow"
IMAGE_PARTS = "index/image_parts.arrow"


def write(folder: str, located: Mapping[str, Located | None], pairs: pa.Table) -> dict[str, dict[str, Any]]:
    """Write the index of a store of groups and return what its manifest tells of each file.

    Args:
        located: the rows of every file of kept images and captions, by the file's name in the store.
        pairs: pair_id, prompt_id, group_id, image_0_id and image_1_id of the kept pairs.

    Raises:
        UserError: if a file does not have its values one after the other, as only another program's has.
    """
    for name, one in located.items():
        if one is None:
            raise UserError(f"{folder}/{name}: its rows have no known place; delete it and encode again with --repair")
    sides = [_part(located, part) for part in (store.KEPT_IMAGES, "prompts")]
    images, image_parts = index_of("image_id", sides[0])
    captions, caption_parts = index_of("prompt_id", sides[1])
    ordered = pairs.sort_by("pair_id")
    table = pa.table(
        {
            "pair_id": ordered["pair_id"],
            **{f"image_{slot}": _rows(images["image_id"], ordered[f"image_{slot}_id"]) for slot in (0, 1)},
            "group_id": ordered["group_id"],
            "caption": _rows(captions["prompt_id"], ordered["prompt_id"]),
        }
    )
    written = {
        PAIRS: table,
        IMAGES: images,
        IMAGE_PARTS: image_parts,
        CAPTIONS: captions,
        CAPTION_PARTS: caption_parts,
    }
    return {name: write_arrow(files.join(folder, name), one) for name, one in written.items()}


def _part(located: Mapping[str, Located | None], part: str) -> dict[str, Located]:
    return {name: one for name, one in sorted(located.items()) if name.startswith(f"{part}/") and one is not None}


def _rows(ids: pa.ChunkedArray, wanted: pa.ChunkedArray) -> npt.NDArray[np.uint32]:
    """Find the rows of ids, which ascend and hold all the wanted ones."""
    return np.searchsorted(ids.to_numpy(), wanted.to_numpy()).astype(np.uint32)
