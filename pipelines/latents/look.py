"""What a source looks like before it is encoded, and the contact sheet of what a store then holds."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from infra.base import config_files, files, logs, tables
from infra.base.errors import UserError
from infra.pages.made import command_of, describe
from infra.pages.page import data_uri, template
from pipelines.latents.encode_config import WORLD
from pipelines.latents.encode_passes import Plan, count_cut
from pipelines.latents.encoders import CheckAndDecode
from pipelines.raw import pairs, source
from pipelines.raw.decode import FORMATS

LOOKED_AT = 200  # pairs, the first of the source
SHOWN = 50  # pairs on the contact sheet
SIDE = 256  # pixels of an image there, at most
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
    captions: int
    cut: int  # captions that no text encoder sees whole


def first_pairs(plan: Plan) -> Iterator[pa.Table]:
    """Yield the first pairs of the source, a few at a time: their images are not all in memory at once.

    Raises:
        UserError: if it has no row.
    """
    rows = 0
    for piece in plan.dataset.pieces(source.columns_to_read(plan.dataset)):
        yield piece.slice(0, LOOKED_AT - rows)
        rows += piece.num_rows
        if rows >= LOOKED_AT:
            break
    if not rows:
        raise UserError(f"--source {plan.config.source}: no rows in it; give comparisons to encode")


def look_at(plan: Plan) -> Look:
    """Measure the first pairs by the headers of their images and by the model's tokenizers."""
    images: list[tuple[tuple[int, int], bool]] = []
    captions: dict[str, None] = {}
    rows = 0
    for piece in first_pairs(plan):
        rows += piece.num_rows
        for slot in (0, 1):
            images += [known for known in map(_size_and_alpha, piece[f"jpg_{slot}"].to_pylist()) if known]
        captions |= dict.fromkeys(text for text in piece["caption"].unique().to_pylist() if isinstance(text, str))
    sizes = [size for size, _ in images]
    squares = plan.config.fit == "pad"
    lost = [0.0 if squares else 1 - min(size) / max(size) for size in sizes]
    side = max if squares else min
    return Look(
        pairs=rows,
        images=len(images),
        cropped=sum(share > 0 for share in lost),
        most_cropped=max(lost, default=0.0),
        padded=sum(squares and size[0] != size[1] for size in sizes),
        enlarged=sum(side(size) < plan.resolution for size in sizes),
        with_alpha=sum(alpha for _, alpha in images),
        captions=len(captions),
        cut=count_cut(plan, list(captions)) if captions else 0,
    )


def _size_and_alpha(content: object) -> tuple[tuple[int, int], bool] | None:
    """Read an image's size and whether it has transparency from its header; None where it is no image."""
    if not isinstance(content, bytes):
        return None
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.size, image.has_transparency_data
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
    return (
        f"model {plan.config.model}, {plan.resolution} x {plan.resolution} pixels\n"
        f"of the first {look.pairs:,} pairs: {'; '.join(parts)}"
    )


def write_sheet(plan: Plan) -> str | None:
    """Write the contact sheet: the first stored pairs as the model sees them, the winner marked.

    Returns:
        Its path; None where none of the source's first pairs was stored.
    """
    kept = files.list_files(files.join(plan.destination, "pairs/status=kept"), tables.SUFFIX)
    stored = tables.read(kept, ["pair_id"])["pair_id"].to_numpy()
    check = CheckAndDecode(plan.resolution, plan.config.strict_labels, fit=plan.config.fit)
    shown: list[dict[str, Any]] = []
    for piece in first_pairs(plan):
        rows = piece.filter(pa.array(np.isin(pairs.pair_ids(piece), stored))).slice(0, SHOWN - len(shown))
        shown += _shown(plan, check, rows)
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


def _shown(plan: Plan, check: CheckAndDecode, rows: pa.Table) -> list[dict[str, Any]]:
    """Describe pairs for the sheet: caption, both images as the model sees them, and the winner's slot."""
    shown = []
    for caption, row in zip(rows["caption"].to_pylist(), check(rows).to_pylist(), strict=True):
        images = [_embedded(row[f"pixels_{slot}"], plan.resolution) for slot in (0, 1)]
        shown.append({"caption": caption, "images": images, "winner": 0 if row["label_0"] == 1 else 1})
    return shown


def _embedded(pixels: bytes, resolution: int) -> str:
    image = Image.fromarray(np.frombuffer(pixels, np.uint8).reshape(resolution, resolution, 3))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return data_uri(buffer.getvalue(), SIDE)
