"""Flags beside a folder of images: which of them a safety filter flagged, and how such an image is shown.

FOLDER/flags.json is written by flag_images.py and read wherever images are shown: reports and arena.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from infra.base import files
from infra.base.errors import UserError
from pipelines.drawing.image_sets import DONE
from pipelines.raw.decode import open_image

FLAGS = "flags.json"
CELLS = 8  # of a blurred image's longer side: what is not in these cannot be brought back


@dataclass(frozen=True)
class Flags:
    """What a filter found in a folder of images."""

    filter: Mapping[str, str]  # its hashes, by flag
    images: int
    reasons: Mapping[int, str]  # of each flagged image, by image_id

    def counts(self) -> dict[str, int]:
        """Count the flagged images by reason, the most frequent first."""
        return dict(Counter(self.reasons.values()).most_common())


def flags_identity(folder: str, chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return what a folder's flags depend on; equal ones need no second look."""
    return {"of": files.sha256(files.join(folder, DONE)), "filter": dict(chosen)}


def read_flags(folder: str) -> Flags | None:
    """Read a folder's flags, None where no filter has seen it.

    Raises:
        UserError: if they are of images that were here before these: what is shown must not be taken for checked.
    """
    path = files.join(folder, FLAGS)
    if not files.exists(path):
        return None
    told = files.read_json(path)
    chosen = told["identity"]["filter"]
    if told["identity"] != flags_identity(folder, chosen):
        raise UserError(f"{path}: of other images than those in {folder}; run flag_images.py again")
    return Flags(chosen, told["images"], {int(image_id): reason for image_id, reason in told["flagged"].items()})


def flag_reasons(folder: str) -> Mapping[int, str]:
    """Return why images of a folder are flagged, by image_id; empty where no filter has seen it."""
    found = read_flags(folder)
    return found.reasons if found else {}


def check_flags(one: str, other: str) -> None:
    """Refuse two folders of images that are shown side by side but not filtered alike.

    Raises:
        UserError: naming both.
    """
    first, second = (read_flags(folder) for folder in (one, other))
    if (first and first.filter) != (second and second.filter):
        raise UserError(
            f"{one} and {other} were not seen by the same safety filter; run flag_images.py --images on both"
        )


def tell_flags(folders: Mapping[str, str]) -> dict[str, Any] | None:
    """Gather what a report says of the filter: its hashes, and by model how many images it flagged and why.

    Args:
        folders: folder of images by the model's name in the report; filtered alike.

    Returns:
        None where no filter has seen them.
    """
    found = {name: read_flags(folder) for name, folder in folders.items()}
    told = {name: flags for name, flags in found.items() if flags}
    if not told:
        return None
    return {
        "filter": dict(next(iter(told.values())).filter),
        "images": {
            name: {"images": flags.images, "flagged": len(flags.reasons), "reasons": flags.counts()}
            for name, flags in told.items()
        },
    }


def blurred(content: bytes) -> bytes:
    """Return an image as PNG of the same size, of which only the mean colours of CELLS x CELLS fields are left."""
    image = open_image(content)
    scale = CELLS / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    coarse = image.resize((width, height), Image.Resampling.BOX)
    buffer = io.BytesIO()
    coarse.resize(image.size, Image.Resampling.BICUBIC).save(buffer, format="PNG")
    return buffer.getvalue()
