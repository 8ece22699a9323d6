"""The embedded world's oracle: how much of its caption an image shows, measured, not learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image

from infra.base.errors import UserError
from infra.world.shapes import COLOURS, RADII, RESOLUTION, SHAPES, Scene, parse_caption, shape_mask
from labelers.clips import weights

WEIGHTS = {"colour": 0.3, "background": 0.3, "shape": 0.3, "size": 0.1}
COLOUR_TOLERANCE = 45.0  # RGB distance (0..441) at which a colour counts 1/e; the palette's nearest two are 84 apart
CONTRAST = 40.0  # RGB distance from the background from which a pixel belongs to the shape
TEMPLATE = 32  # side of the normalised outlines that are compared, pixels


@dataclass(frozen=True)
class Reading:
    """What the oracle sees in an image: two colours, and the shape's outline."""

    background: npt.NDArray[np.float64]  # [3] RGB 0..255
    colour: npt.NDArray[np.float64]  # [3]
    outline: npt.NDArray[np.float64]  # [TEMPLATE, TEMPLATE] 0..1, cut to the bounding box; zeros where nothing is seen
    radius: float  # half the bounding box's longer side, pixels


def read_image(image: Image.Image) -> Reading:
    """Read an image: the border's median is the background, and the pixels that differ from it are the shape."""
    pixels = np.asarray(image.convert("RGB").resize((RESOLUTION, RESOLUTION), Image.Resampling.BILINEAR), np.float64)
    border = np.concatenate(
        [
            pixels[:2].reshape(-1, 3),
            pixels[-2:].reshape(-1, 3),
            pixels[:, :2].reshape(-1, 3),
            pixels[:, -2:].reshape(-1, 3),
        ]
    )
    background = np.median(border, axis=0)
    mask = np.linalg.norm(pixels - background, axis=-1) > CONTRAST
    rows = np.flatnonzero(mask.sum(1) > 1)
    columns = np.flatnonzero(mask.sum(0) > 1)
    if len(rows) == 0 or len(columns) == 0:
        return Reading(background, background, np.zeros((TEMPLATE, TEMPLATE)), 0.0)
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    radius = max(box.shape) / 2
    return Reading(background, np.median(pixels[mask], axis=0), _normalised(box), radius)


def _normalised(box: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    picture = Image.fromarray(box.astype(np.uint8) * 255).resize((TEMPLATE, TEMPLATE), Image.Resampling.BOX)
    return np.asarray(picture, np.float64) / 255.0


@cache
def _template(shape: str) -> npt.NDArray[np.float64]:
    mask = shape_mask(shape, 21, 31, 31) > 0.5
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    return _normalised(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def agreement(scene: Scene, reading: Reading) -> dict[str, float]:
    """Measure each attribute of the caption in the image, 0..1 each.

    Colours: exp(-(RGB distance / tolerance)^2). Shape: overlap of the outline with the named shape's, less that of the
    best other shape, through a logistic. Size: a logistic in the radius, half-way between small and big.
    """
    if reading.radius == 0:
        return {"colour": 0.0, "background": _near(reading.background, scene.background), "shape": 0.0, "size": 0.0}
    overlaps = {shape: _overlap(reading.outline, _template(shape)) for shape in SHAPES}
    lead = overlaps[scene.shape] - max(value for shape, value in overlaps.items() if shape != scene.shape)
    middle = (RADII["small"][1] + RADII["big"][0]) / 2
    bigness = 1 / (1 + np.exp(-(reading.radius - middle)))
    return {
        "colour": _near(reading.colour, scene.colour),
        "background": _near(reading.background, scene.background),
        "shape": float(1 / (1 + np.exp(-lead / 0.04)) * overlaps[scene.shape]),
        "size": float(bigness if scene.size == "big" else 1 - bigness),
    }


def _near(colour: npt.NDArray[np.float64], name: str) -> float:
    return float(np.exp(-((np.linalg.norm(colour - np.array(COLOURS[name])) / COLOUR_TOLERANCE) ** 2)))


def _overlap(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


class Oracle:
    """Scores prompt alignment in the embedded world, 0..1: the weighted mean of the attributes' agreements."""

    temperature = None
    fingerprint = weights.fingerprint([], "oracle", WEIGHTS, COLOUR_TOLERANCE, CONTRAST, TEMPLATE, COLOURS, RADII)

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Score images against their captions.

        Returns:
            [B] float32 in 0..1.

        Raises:
            UserError: for a caption from outside the world.
        """
        return np.array([self._score_one(i, c) for i, c in zip(images, captions, strict=True)], np.float32)

    def check_captions(self, captions: Sequence[str]) -> None:
        """Refuse captions that cannot be scored, before a job starts.

        Raises:
            UserError: for a caption from outside the world.
        """
        for caption in captions:
            _known_scene(caption)

    def _score_one(self, image: Image.Image, caption: str) -> float:
        parts = agreement(_known_scene(caption), read_image(image))
        return sum(WEIGHTS[name] * value for name, value in parts.items())


def _known_scene(caption: str) -> Scene:
    scene = parse_caption(caption)
    if scene is None:
        raise UserError(
            f"scorer oracle: {caption[:80]!r} is not a caption of the embedded world, so it cannot be judged; "
            "use another scorer, for example pickscore"
        )
    return scene
