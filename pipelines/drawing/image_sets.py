"""Sets of drawn images: the table of images to draw, and the folder that holds them once they are drawn.

images/*.parquet   image_id, caption, image_index, image_seed, image (PNG bytes)
manifest.json      written last: what decides the images (identity), how many there are, the flags (config), and each
                   file's bytes, sha256 and rows (files); manifests of before name no files
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from infra.base import begun, files, named_files, records, tables
from infra.base.errors import UserError
from pipelines.drawing.image_identity import captions_hash, image_seed
from pipelines.latents import schemas, store
from pipelines.raw import pairs

DONE = "manifest.json"
IMAGES = "images"
REMEDY = "delete the folder and draw it again"


def wanted_images(
    captions: Sequence[str], per_prompt: int, seed: int, shapes: Sequence[tuple[int, int]] = ()
) -> pa.Table:
    """List the images to draw: image_id, caption, image_index (running per repeated caption), image_seed.

    Args:
        shapes: height and width of each caption's images in pixels, two more columns; without any there are none.
    """
    rows: list[dict[str, Any]] = []
    used = dict.fromkeys(captions, 0)
    for place, caption in enumerate(captions):
        sides = dict(zip(schemas.SIDES, shapes[place], strict=True)) if shapes else {}
        for _ in range(per_prompt):
            index = used[caption]
            used[caption] += 1
            number = image_seed(seed, index, caption)
            key = pairs.hash64(b"image_id", caption.encode(), str(index).encode())
            rows.append({"image_id": key, "caption": caption, "image_index": index, "image_seed": number, **sides})
    return pa.Table.from_pylist(rows, schema=_SHAPED if shapes else _WANTED)


_WANTED = pa.schema(
    [("image_id", pa.int64()), ("caption", pa.string()), ("image_index", pa.int32()), ("image_seed", pa.int64())]
)
_SHAPED = pa.schema([*_WANTED, *((side, pa.int32()) for side in schemas.SIDES)])


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
    before = read_manifest(folder) if files.exists(done) else None
    known = None if before is None else {name: value for name, value in before.items() if name != "files"}
    if known == about and not list(problems(folder)):
        return
    if files.exists(files.join(folder, store.WORK)):
        raise UserError(f"{folder}: generate.py has not finished its images here; give another --output")
    unhashed = {**about, "identity": settings}  # painted before captions were hashed: which, it does not say
    if before is not None and known not in (about, unhashed):
        there = {**before["identity"], "images": before["images"]}
        asked = {**about["identity"], "images": about["images"]}
        begun.refuse_other_settings(folder, there, asked, "give another --output", exact=True)
        raise UserError(f"{folder}: its manifest is no longer as it was written; give another --output")
    files.remove(done)  # the manifest goes first and comes last
    files.remove(files.join(folder, IMAGES))
    files.write_table(files.join(folder, IMAGES, "part-0.parquet"), table)
    files.write_json(done, about | {"files": describe_images(folder)})


def describe_images(folder: str) -> dict[str, dict[str, Any]]:
    """Describe the files of a folder's images for its manifest: bytes, sha256 and rows; every byte is read."""
    paths = files.list_files(files.join(folder, IMAGES), tables.SUFFIX)
    names = [path.removeprefix(f"{folder}/") for path in paths]

    def describe(name: str) -> dict[str, Any]:
        return named_files.describe(folder, [name])[name] | {"rows": tables.count_rows(files.join(folder, name))}

    with ThreadPoolExecutor() as pool:  # on S3 each file is a round trip
        return dict(zip(names, pool.map(describe, names), strict=True))


def read_manifest(folder: str) -> dict[str, Any]:
    """Read what a finished folder of images says of itself.

    Raises:
        UserError: if it is not finished, or its manifest is torn or another file's content.
    """
    path = files.join(folder, DONE)
    if not files.exists(path):
        raise UserError(f"{folder}: no finished images here; run generate.py with this --output")
    return records.read_record(path, ("identity", "images"), f"restore it from a copy, or {REMEDY}")


def image_files(folder: str) -> list[str]:
    """List the files of a finished folder of images, each compared with the manifest; no other file there is read.

    Raises:
        UserError: naming the first that is missing, differs, or is one too many.
    """
    named_files.refuse(problems(folder))
    described = read_manifest(folder).get("files")
    if described is None:
        return files.list_files(files.join(folder, IMAGES), tables.SUFFIX)
    return [files.join(folder, name) for name in sorted(described)]


def problems(folder: str) -> Iterator[str]:
    """Yield one sentence for each thing that is wrong with the files of a finished folder of images."""
    manifest = read_manifest(folder)
    described = manifest.get("files")
    if described is not None:
        yield from named_files.unknown(folder, described)
        yield from named_files.problems(folder, described, REMEDY, contents=True)
        return
    paths = files.list_files(files.join(folder, IMAGES), tables.SUFFIX)
    count = 0
    for path in paths:
        try:
            count += tables.count_rows(path)
        except (tables.UnreadableError, OSError) as error:
            refusal = error if isinstance(error, UserError) else tables.unreadable(path, error)
            yield f"{refusal}, or {REMEDY}"
            return
    if count != manifest["images"]:
        yield (
            f"{files.join(folder, IMAGES)}: holds {count} images, but {DONE} beside it says {manifest['images']}; "
            f"delete copies of its files there, or {REMEDY}"
        )


def read_images(folder: str, ids: Sequence[int] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a finished folder of images in the order of image_id.

    Args:
        ids: the images wanted; all by default.
        columns: the columns wanted; all by default.

    Raises:
        UserError: if it is not finished, or its files are not as its manifest says.
    """
    paths = image_files(folder)
    wanted = None if ids is None else pc.field("image_id").isin(list(ids))
    names = None if columns is None else list(dict.fromkeys(["image_id", *columns]))
    return tables.read(paths, names, wanted).sort_by("image_id")
