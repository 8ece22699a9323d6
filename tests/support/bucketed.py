"""Raw pairs of several shapes, and a store of them in buckets."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from infra.base import engines
from pipelines.latents.encode_config import EncodeConfig
from pipelines.raw.raw_pairs import labelled_pair
from support.material import write_pairs

SIZES = ((24, 24), (40, 20), (20, 40), (30, 20))  # width, height: square, 2:1, 1:2, 3:2, which has the bucket of 5:3
EACH = 6  # pairs of a size


def rated(number: int, size_0: tuple[int, int], size_1: tuple[int, int]) -> dict[str, Any]:
    """Make a raw pair of random images of two sizes, their widths and heights."""
    rng = np.random.default_rng(number)
    shown = []
    for slot, (width, height) in enumerate((size_0, size_1)):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(256, size=(height, width, 3), dtype=np.uint8)).save(buffer, format="PNG")
        shown.append((f"{number}-{slot}", buffer.getvalue()))
    return labelled_pair(number, f"a red star {number % 5}", shown, float(number % 2), "noise")


def shaped_pairs(sizes: tuple[tuple[int, int], ...] = SIZES, each: int = EACH) -> list[dict[str, Any]]:
    """Make pairs of several sizes in turn."""
    return [
        rated(number, sizes[number % len(sizes)], sizes[number % len(sizes)]) for number in range(each * len(sizes))
    ]


def bucketed_config(model: Path, folder: Path, **settings: Any) -> EncodeConfig:
    """Return settings that encode such pairs with a tiny pipeline into buckets at 16 pixels."""
    raw = write_pairs(folder / "raw", shaped_pairs())
    config = EncodeConfig(
        source=str(raw), model=str(model), store=str(folder / "store"), resolution=16, buckets=True, batch_size=8
    )
    return replace(config, **settings)


def encode_bucketed(model: Path, folder: Path, **settings: Any) -> Path:
    """Encode pairs of several shapes in this process, and return the store."""
    from pipelines.latents import (
        encode_latents,  # which loads diffusers
    )

    config = bucketed_config(model, folder, **settings)
    with engines.asking("local"):
        encode_latents.main(config)
    return Path(config.store)
