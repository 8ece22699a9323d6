"""The embedded world's second judge: how near an image is to a true render, whatever its caption says.

It never labels and reads no caption, so a policy cannot raise it by raising the oracle's score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from infra.world.oracle import CONTRAST
from infra.world.shapes import RESOLUTION, SHAPES, compose, shape_mask
from labelers.clips import weights


class Fidelity:
    """Scores how clean an image is: minus the root mean square distance (0..255) to the nearest render tried."""

    temperature = None
    fingerprint = weights.fingerprint([], "fidelity", CONTRAST, RESOLUTION, SHAPES)

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Score images; captions are not looked at. Returns [B] float32, 0 at best."""
        del captions
        return np.array([-self._distance(image) for image in images], np.float32)

    def _distance(self, image: Image.Image) -> float:
        pixels = np.asarray(
            image.convert("RGB").resize((RESOLUTION, RESOLUTION), Image.Resampling.BILINEAR), np.float64
        )
        background = np.median(np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3)]), axis=0)
        mask = np.linalg.norm(pixels - background, axis=-1) > CONTRAST
        renders = [compose(np.zeros((RESOLUTION, RESOLUTION), np.float32), background, background)]
        if mask.any():
            colour = np.median(pixels[mask], axis=0)
            renders += [compose(drawn, colour, background) for drawn in _near_masks(mask)]
        return float(min(np.sqrt(np.square(render - pixels).mean()) for render in renders))


def _near_masks(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.float32]]:
    """Draw every shape near the mask at several radii and places; return the three that overlap it best."""
    rows = np.flatnonzero(mask.any(1))
    columns = np.flatnonzero(mask.any(0))
    x = int(columns[0] + columns[-1]) // 2
    y = int(rows[0] + rows[-1]) // 2
    reach = max(rows[-1] - rows[0], columns[-1] - columns[0]) // 2
    candidates = [
        shape_mask(shape, int(radius), cx, cy)
        for shape in SHAPES
        for radius in range(max(6, reach - 1), reach + 4)
        for cx in (x - 1, x, x + 1)
        for cy in (y - 1, y, y + 1, y + 2)
    ]
    distances = [float(np.square(candidate - mask).sum()) for candidate in candidates]
    return [candidates[index] for index in np.argsort(distances)[:3]]
