"""What a source looks like before it is encoded, and the contact sheet of what a store then holds."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import ExifTags, Image

from infra.base import config_files, files, logs, tables
from infra.base.errors import UserError
from infra.pages.made import command_of, describe
from infra.pages.page import data_uri, template
from pipelines.latents import buckets
from pipelines.latents.decoding import CheckAndDecode
from pipelines.latents.encode_config import WORLD
from pipelines.latents.encode_passes import Plan, count_cut
from pipelines.raw import pairs, raw_table
from pipelines.raw.decode import FORMATS

LOOKED_AT = 200  # pairs, the first of the source
SHOWN = 50  # pairs on the contact sheet
SIDE = 256  # pixels of an image there, at most
TURNED = (5, 6, 7, 8)  # EXIF orientations of images that lie on their side
SHEET = "contact-sheet.html"
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Look:
    """What becomes of the images and captions of a source's first pairs."""

    pairs: int
    images: int
    cropped: int  # images that lose something at the sides
    most_cropped: float  # greatest share of an image that is lost, 0 to 1
    padded: int
    enlarged: int
    with_alpha: int
    misfits: int  # pairs with an image that their bucket would cut too much of
    captions: int
    cut: int  # captions that no text encoder sees whole


def first_pairs(plan: Plan) -> Iterator[pa.Table]:
    """Yield the first pairs of the source, a few at a time: their images are not all in memory at once.

    Raises:
        UserError: if it has no row.
    """
    rows = 0
    for piece in plan.dataset.pieces(raw_table.columns_to_read(plan.dataset)):
        yield piece.slice(0, LOOKED_AT - rows)
        rows += piece.num_rows
        if rows >= LOOKED_AT:
            break
    if not rows:
        raise UserError(f"--source {plan.config.source}: no rows in it; give comparisons to encode")


def look_at(plan: Plan) -> Look:
    """Measure the first pairs by the headers of their images and by the model's tokenizers."""
    pads = plan.config.fit == "pad"
    known: list[tuple[buckets.Shape, buckets.Shape]] = []  # of each image: its height and width, and what it gets
    captions: dict[str, None] = {}
    rows = 0
    with_alpha = 0
    misfits = 0
    for piece in first_pairs(plan):
        rows += piece.num_rows
        captions |= dict.fromkeys(text for text in piece["caption"].unique().to_pylist() if isinstance(text, str))
        for both in zip(*(map(_size_and_alpha, piece[f"jpg_{slot}"].to_pylist()) for slot in (0, 1)), strict=True):
            images = [one for one in both if one is not None]
            sizes = [size for size, _ in images]
            shape = _shape(plan, sizes)
            misfits += bool(plan.buckets and buckets.misfit(sizes, shape, plan.config.bucket_tolerance))
            known += [(size, shape) for size in sizes]
            with_alpha += sum(alpha for _, alpha in images)
    lost = [buckets.lost_share(size, shape) for size, shape in known]
    return Look(
        pairs=rows,
        images=len(known),
        cropped=0 if pads else sum(share > 0 for share in lost),
        most_cropped=0.0 if pads else max(lost, default=0.0),
        padded=sum(share > 0 for share in lost) if pads else 0,
        enlarged=sum(_is_enlarged(size, shape, pads) for size, shape in known),
        with_alpha=with_alpha,
        misfits=misfits,
        captions=len(captions),
        cut=count_cut(plan, list(captions)) if captions else 0,
    )


def _shape(plan: Plan, sizes: Sequence[buckets.Shape]) -> buckets.Shape:
    """Return the height and width that a pair's images get, by those that they have, slot 0 first."""
    square = (plan.resolution, plan.resolution)
    return buckets.nearest(sizes[0], plan.buckets) if plan.buckets and sizes else square


def _is_enlarged(size: buckets.Shape, shape: buckets.Shape, pads: bool) -> bool:
    """Say whether an image of some height and width has fewer pixels than what is made of it."""
    scales = [wanted / given for wanted, given in zip(shape, size, strict=True)]
    return (min if pads else max)(scales) > 1


def _size_and_alpha(content: object) -> tuple[buckets.Shape, bool] | None:
    """Read an image's upright height and width and whether it has transparency from its header; None if it has none."""
    if not isinstance(content, bytes):
        return None
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation) in TURNED
            return (width, height) if turned else (height, width), image.has_transparency_data
    except Exception:  # Pillow raises many kinds; the encoder quarantines such a row and says why
        return None


def say(plan: Plan, look: Look) -> str:
    """Lay out a look for the terminal, and warn where the demo's toy model meets captions of the real world."""
    if look.cut and files.resolve(plan.config.model) == files.resolve(f"{WORLD}/model"):
        logs.LOGGER.warning(
            f"--model {plan.config.model}: this is the demo's toy model, which knows only its own scenes, and it cuts "
            f"{look.cut} of {look.captions} captions; give a real one, for example --preset sd15"
        )
    parts = [f"{look.enlarged:,} enlarged", f"{look.with_alpha:,} laid over white where they are transparent"]
    if plan.config.fit == "pad":
        parts.insert(0, f"{look.padded:,} of {look.images:,} images padded with white")
    else:
        most = f", by up to {look.most_cropped:.0%}" if look.cropped else ""
        parts.insert(0, f"{look.cropped:,} of {look.images:,} images cropped{most}")
    parts.append(f"{look.cut:,} of {look.captions:,} captions cut to what the text encoders take")
    if plan.buckets:
        parts.insert(1, f"{look.misfits:,} pairs refused, of which a bucket would cut off too much")
    shapes = f"{plan.resolution} x {plan.resolution} pixels"
    if plan.buckets:
        shapes = f"{len(plan.buckets)} shapes of about {shapes}"
    return f"model {plan.config.model}, {shapes}\nof the first {look.pairs:,} pairs: {'; '.join(parts)}"


def write_sheet(plan: Plan) -> str | None:
    """Write the contact sheet: the first stored pairs as the model sees them, the winner marked.

    Returns:
        Its path; None where none of the source's first pairs was stored.
    """
    kept = files.list_files(files.join(plan.destination, "pairs/status=kept"), tables.SUFFIX)
    stored = tables.read(kept, ["pair_id"])["pair_id"].to_numpy()
    check = CheckAndDecode(
        plan.resolution,
        plan.config.strict_labels,
        fit=plan.config.fit,
        shapes=plan.buckets,
        tolerance=plan.config.bucket_tolerance,
    )
    shown: list[dict[str, Any]] = []
    for piece in first_pairs(plan):
        rows = piece.filter(pa.array(np.isin(pairs.pair_ids(piece), stored))).slice(0, SHOWN - len(shown))
        shown += _shown(check, rows)
        if len(shown) >= SHOWN:
            break
    if not shown:
        return None
    page = template("contact_sheet.html.jinja", TEMPLATES).render(
        pairs=shown,
        plan=plan,
        settings=config_files.as_yaml(plan.config),
        made=describe(command_of("pipelines/encode_latents.py", plan.config, ("source", "model", "store"))),
    )
    path = files.join(plan.destination, SHEET)
    files.write_bytes(path, page.encode())
    return path


def _shown(check: CheckAndDecode, rows: pa.Table) -> list[dict[str, Any]]:
    """Describe pairs for the sheet: caption, both images as the model sees them, and the winner's slot."""
    shown = []
    for caption, row in zip(rows["caption"].to_pylist(), check(rows).to_pylist(), strict=True):
        images = [_embedded(row[f"pixels_{slot}"], row["height"], row["width"]) for slot in (0, 1)]
        shown.append({"caption": caption, "images": images, "winner": 0 if row["label_0"] == 1 else 1})
    return shown


def _embedded(pixels: bytes, height: int, width: int) -> str:
    image = Image.fromarray(np.frombuffer(pixels, np.uint8).reshape(height, width, 3))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return data_uri(buffer.getvalue(), SIDE)
