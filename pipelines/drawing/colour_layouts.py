"""Paint colour layouts to start edits from: `python pipelines/colour_layouts.py --prompts a.txt --output runs/layouts`.

A layout is a background with rectangles of other colours, a function of (seed, image index, caption). It is a crude
drawing in the sense of SDEdit (Meng et al. 2022). generate.py --init-images runs/layouts --strength 0.98 makes an image
of it, and at this strength keeps little of it.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import numpy.typing as npt
from PIL import Image

from infra.base import files
from infra.base.config_files import save_config
from infra.base.errors import check_least
from pipelines.drawing.image_sets import wanted_images, with_images, write_images
from pipelines.drawing.layout_config import LayoutConfig
from pipelines.drawing.prompts import read_prompts


def layout(side: int, rectangles: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Paint one layout: rectangles of a quarter to three quarters of the side, later ones on top.

    Returns:
        [side, side, 3] uint8 RGB.
    """
    pixels = np.empty((side, side, 3), np.uint8)
    pixels[:] = rng.integers(256, size=3)
    for _ in range(rectangles):
        height, width = rng.integers(side // 4, side * 3 // 4, size=2, endpoint=True)
        top = rng.integers(side - height, endpoint=True)
        left = rng.integers(side - width, endpoint=True)
        pixels[top : top + height, left : left + width] = rng.integers(256, size=3)
    return pixels


def main(config: LayoutConfig) -> None:
    """Paint colour layouts for each caption into a folder of images that generate.py can start from."""
    check_least(config, {"limit": 1, "images_per_prompt": 1, "side": 4, "rectangles": 1})
    output = files.resolve(config.output)
    captions = read_prompts(files.resolve(config.prompts))[: config.limit]
    wanted = wanted_images(captions, config.images_per_prompt, config.seed)
    seeds = wanted["image_seed"].to_pylist()
    painted = (layout(config.side, config.rectangles, np.random.default_rng(seed)) for seed in seeds)
    write_images(output, with_images(wanted, map(Image.fromarray, painted)), asdict(config))
    save_config(output, config)
    print(f"{output}: {wanted.num_rows} layouts", flush=True)
