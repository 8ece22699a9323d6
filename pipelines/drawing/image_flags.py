"""Read which images of a folder a safety filter flagged, and blur these where they are shown.

flag_images.py writes FOLDER/flags.json, and then FOLDER/filter.json, which has its hash. Pages and arena read them.
Where one is lost or altered they refuse, as images that were flagged would be shown unblurred.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from infra.base import files, records
from infra.base.errors import UserError
from pipelines.drawing.image_sets import DONE, read_images
from pipelines.raw.decode import open_image

FLAGS = "flags.json"
FILTER = "filter.json"
AGAIN = "delete it and run flag_images.py again"
CELLS = 8  # along the longer side of a blurred image; no finer detail can be recovered


@dataclass(frozen=True)
class ImageFlags:
    """The images of a folder that a safety filter flagged."""

    filter: Mapping[str, str]  # hashes of the filter's parts, by the command flag that chose each
    images: int  # that the filter looked at
    reasons: Mapping[int, str]  # why an image is flagged, by image_id

    def counts(self) -> dict[str, int]:
        """Count the flagged images by reason, the most frequent first."""
        return dict(Counter(self.reasons.values()).most_common())


def flags_identity(folder: str, chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return what the image flags of a folder depend on; where it is equal they need not be computed again."""
    return {"of": files.sha256(files.join(folder, DONE)), "filter": dict(chosen)}


def write_image_flags(folder: str, about: Mapping[str, Any]) -> None:
    """Write the image flags of a folder, and then that they are there."""
    path = files.join(folder, FLAGS)
    files.write_json(path, about)
    files.write_json(files.join(folder, FILTER), {"identity": about["identity"], "sha256": files.sha256(path)})


def are_flagged(folder: str, identity: Mapping[str, Any]) -> bool:
    """Say whether a filter has checked a folder so, and its image flags are as they were written.

    Raises:
        UserError: if one of the two files is torn.
    """
    path = files.join(folder, FLAGS)
    if not files.exists(path) or records.read_record(path, ("identity",), AGAIN)["identity"] != identity:
        return False
    noted = _read_filter(folder)
    return noted is None or noted["sha256"] == files.sha256(path)


def _read_filter(folder: str) -> dict[str, Any] | None:
    """Read which filter has checked a folder; None where none has, or flags were written before this was noted."""
    path = files.join(folder, FILTER)
    return records.read_record(path, ("identity", "sha256"), AGAIN) if files.exists(path) else None


def read_image_flags(folder: str) -> ImageFlags | None:
    """Read the image flags of a folder; None where no filter has checked it.

    Raises:
        UserError: if they are lost, altered or torn, or of earlier images of this folder, so that the present ones were
            not checked.
    """
    path = files.join(folder, FLAGS)
    noted = _read_filter(folder)
    if not files.exists(path):
        if noted is None:
            return None
        raise UserError(
            f"{path}: missing, though {FILTER} beside it says that a safety filter has checked these images; run "
            f"flag_images.py again, or to show all of them as they are, delete {FILTER}"
        )
    written = records.read_record(path, ("identity", "images", "flagged"), AGAIN)
    chosen = written["identity"].get("filter", {})
    if written["identity"] != flags_identity(folder, chosen):
        raise UserError(f"{path}: of other images than those in {folder}; {AGAIN}")
    if noted is not None and noted["sha256"] != files.sha256(path):
        raise UserError(f"{path}: altered since the filter wrote it; {AGAIN}")
    reasons = {int(image_id): reason for image_id, reason in written["flagged"].items()}
    return ImageFlags(chosen, written["images"], reasons)


def shown_contents(folder: str, ids: Sequence[int]) -> dict[int, bytes]:
    """Read images by their ids as a page may show them: a flagged one is blurred, and its own bytes stay out."""
    table = read_images(folder, ids, columns=["image"])
    flagged = flag_reasons(folder)
    contents = zip(table["image_id"].to_pylist(), table["image"].to_pylist(), strict=True)
    return {image_id: blurred(content) if image_id in flagged else content for image_id, content in contents}


def flag_reasons(folder: str) -> Mapping[int, str]:
    """Return why images of a folder are flagged, by image_id; empty where no filter has checked it."""
    image_flags = read_image_flags(folder)
    return image_flags.reasons if image_flags else {}


def check_same_filter(one: str, other: str) -> None:
    """Refuse to show two folders side by side unless the same safety filter, or none, checked both.

    Raises:
        UserError: naming both folders.
    """
    first = read_image_flags(one)
    second = read_image_flags(other)
    if (first and first.filter) != (second and second.filter):
        raise UserError(
            f"{one} and {other} were not seen by the same safety filter; run flag_images.py --images on both"
        )


def summarise_image_flags(folders: Mapping[str, str]) -> dict[str, Any] | None:
    """Summarise for a report the filter's hashes, and for each model how many images it flagged and why.

    Args:
        folders: folder of images by the model's name in the report; the same filter checked all of them.

    Returns:
        None where no filter has checked them.
    """
    by_model = {name: read_image_flags(folder) for name, folder in folders.items()}
    checked = {name: image_flags for name, image_flags in by_model.items() if image_flags}
    if not checked:
        return None
    return {
        "filter": dict(next(iter(checked.values())).filter),
        "images": {
            name: {
                "images": image_flags.images,
                "flagged": len(image_flags.reasons),
                "reasons": image_flags.counts(),
            }
            for name, image_flags in checked.items()
        },
    }


def blurred(content: bytes) -> bytes:
    """Return a PNG of the same size that keeps only the mean colours of at most CELLS x CELLS fields."""
    image = open_image(content)
    scale = CELLS / max(image.size)
    width = max(1, round(image.width * scale))
    height = max(1, round(image.height * scale))
    coarse = image.resize((width, height), Image.Resampling.BOX)
    buffer = io.BytesIO()
    coarse.resize(image.size, Image.Resampling.BICUBIC).save(buffer, format="PNG")
    return buffer.getvalue()
