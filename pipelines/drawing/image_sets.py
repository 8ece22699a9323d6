"""Sets of drawn images: the table of images to draw, and the folder that holds them once they are drawn.

images/*.parquet   image_id, caption, image_index, image_seed, image (PNG bytes)
manifest.json      written last: what decides the images (identity), how many there are, and the flags (config)
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from infra.base import begun, files, tables
from infra.base.errors import UserError
from pipelines.drawing import sampling
from pipelines.drawing.image_identity import captions_hash
from pipelines.latents import store
from pipelines.raw import pairs

DONE = "manifest.json"


def wanted_images(captions: Sequence[str], per_prompt: int, seed: int) -> pa.Table:
    """List the images to draw: image_id, caption, image_index (running per repeated caption), image_seed."""
    rows = []
    used = dict.fromkeys(captions, 0)
    for caption in captions:
        for _ in range(per_prompt):
            index = used[caption]
            used[caption] += 1
            number = sampling.image_seed(seed, index, caption)
            key = pairs.hash64(b"image_id", caption.encode(), str(index).encode())
            rows.append({"image_id": key, "caption": caption, "image_index": index, "image_seed": number})
    return pa.Table.from_pylist(rows, schema=_WANTED)


_WANTED = pa.schema(
    [("image_id", pa.int64()), ("caption", pa.string()), ("image_index", pa.int32()), ("image_seed", pa.int64())]
)


def image_ids(table: pa.Table) -> npt.NDArray[np.int64]:
    """Return the ids of a table of images."""
    return table["image_id"].to_numpy()


def with_images(wanted: pa.Table, images: Iterable[Image.Image]) -> pa.Table:
    """Add the column image, PNG bytes, to a table of wanted images."""
    contents = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        contents.append(buffer.getvalue())
    return wanted.append_column("image", pa.array(contents, pa.binary()))


def describe_captions(captions: Sequence[str]) -> str:
    """Name captions so that others, or the same in another order, have another name; for messages."""
    return f"{len(captions):,} captions ({captions_hash(captions)[:12]})"


def write_images(folder: str, table: pa.Table, settings: Mapping[str, Any]) -> None:
    """Write images that no model drew as a finished folder; one that is there, of equal settings and captions, stays.

    Raises:
        UserError: if another set of images is there.
    """
    done = files.join(folder, DONE)
    captions = captions_hash(table["caption"].to_pylist())
    about = {"identity": {**settings, "captions": captions}, "images": table.num_rows, "config": settings}
    before = files.read_json(done) if files.exists(done) else None
    if before == about:
        return
    if files.exists(files.join(folder, store.WORK)):
        raise UserError(f"{folder}: generate.py has not finished its images here; give another --output")
    unhashed = {**about, "identity": settings}  # painted before captions were hashed: which, it does not say
    if before not in (None, unhashed):
        there = {**before["identity"], "images": before["images"]}
        asked = {**about["identity"], "images": about["images"]}
        begun.refuse_other_settings(folder, there, asked, "give another --output", exact=True)
        raise UserError(f"{folder}: its manifest is no longer as it was written; give another --output")
    files.remove(done)  # the manifest goes first and comes last
    files.write_table(files.join(folder, "images", "part-0.parquet"), table)
    files.write_json(done, about)


def read_images(folder: str, ids: Sequence[int] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a finished folder of images in the order of image_id.

    Args:
        ids: the images wanted; all by default.
        columns: the columns wanted; all by default.

    Raises:
        UserError: if it is not finished.
    """
    if not files.exists(files.join(folder, DONE)):
        raise UserError(f"{folder}: no finished images here; run generate.py")
    wanted = None if ids is None else pc.field("image_id").isin(list(ids))
    names = None if columns is None else list(dict.fromkeys(["image_id", *columns]))
    return tables.read_folder(files.join(folder, "images"), names, wanted).sort_by("image_id")
