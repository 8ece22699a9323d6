"""Aspect-ratio buckets: the shapes that the pairs of a store have where its encoder was given --buckets.

The shapes are diffusers' own, of about as many pixels as the square. A pair goes to the bucket nearest to slot 0's
image. Both images get that bucket's shape, so a pair has one shape, one noise and one timestep. A pair of which an
image would lose too much is quarantined: the rater judged what would be cut away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infra.base.errors import UserError
from pipelines.latents import components, kinds

Shape = tuple[int, int]  # height and width in pixels
STAGE = "shape"  # of pairs that fit no bucket


def ladder(folder: Path, resolution: int) -> tuple[Shape, ...]:
    """Return the buckets of a model at a resolution, the square first.

    Args:
        folder: of the model's settings.
        resolution: side of the square in pixels.

    Raises:
        UserError: if the resolution is no multiple of the model's step, or the network has no positions for a bucket.
    """
    from infra.base import torchvision_guard  # noqa: F401, I001  (before diffusers)
    from diffusers.training_utils import generate_aspect_ratio_buckets

    step = step_of(folder)
    if resolution % step:
        raise UserError(
            f"--buckets: --resolution {resolution} is not a multiple of {step}, by which this model's buckets go; "
            f"give {max(step, round(resolution / step) * step)}"
        )
    shapes = tuple((int(height), int(width)) for height, width in generate_aspect_ratio_buckets(resolution, step))
    _check_positions(folder, shapes)
    return shapes


def step_of(folder: Path) -> int:
    """Return what the sides of a model's buckets are multiples of, in pixels.

    A UNet then has whole numbers of positions at each of its levels, and a transformer whole patches.
    """
    kind = kinds.kind_of(folder)
    settings = components.settings(folder, kind.network)
    levels = len(settings["block_out_channels"]) if kind.network == "unet" else 1
    return kinds.pixels_per_latent(folder) * kind.patch * 2 ** (levels - 1)


def _check_positions(folder: Path, shapes: Sequence[Shape]) -> None:
    """Refuse buckets that are longer than the table of positions that a network learned or computed (SD3's)."""
    kind = kinds.kind_of(folder)
    settings: Mapping[str, Any] = components.settings(folder, kind.network)
    most = settings.get("pos_embed_max_size")
    if most is None:
        return
    longest = max(max(shape) for shape in shapes)
    side = kinds.pixels_per_latent(folder) * kind.patch
    if longest > most * side:
        raise UserError(
            f"--buckets: the longest bucket has {longest} pixels, and this network has positions for {most * side}; "
            "give a smaller --resolution, or leave --buckets out"
        )


def nearest(size: Shape, shapes: Sequence[Shape]) -> Shape:
    """Return the bucket whose sides are most nearly as those of an image, its (height, width)."""
    from infra.base import torchvision_guard  # noqa: F401, I001  (before diffusers)
    from diffusers.training_utils import find_nearest_bucket

    place = find_nearest_bucket(size[0], size[1], shapes)
    assert place is not None
    return shapes[place]


def lost_share(size: Shape, shape: Shape) -> float:
    """Return the share of an image that a bucket cuts off, 0 to 1; with --fit pad, of the bucket that stays white."""
    ratio = size[0] * shape[1] / (size[1] * shape[0])
    return 1 - min(ratio, 1 / ratio)


def misfit(sizes: Sequence[Shape], shape: Shape, tolerance: float) -> str | None:
    """Say why images, slot 0 first, do not fit a bucket; None where both fit.

    Args:
        tolerance: greatest share of an image that may be lost.
    """
    for slot, size in enumerate(sizes):
        lost = lost_share(size, shape)
        if lost > tolerance:
            return (
                f"image {slot} of {size[1]}x{size[0]} does not fit the pair's bucket of {shape[1]}x{shape[0]}: "
                f"{lost:.0%} is over --bucket-tolerance {tolerance:g}"
            )
    return None
