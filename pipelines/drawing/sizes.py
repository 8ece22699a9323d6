"""The size of drawn images: the bucket that a prompt's shape is nearest to, and how a pipeline is told a size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.base.errors import UserError
from pipelines.drawing.prompts import Prompt
from pipelines.latents import buckets, kinds
from pipelines.latents.buckets import Shape
from pipelines.latents.kinds_known import KINDS


def bucketed(prompts: Sequence[Prompt], folder: Path, source: str) -> list[Shape]:
    """Return for each prompt the model's bucket that its shape is nearest to.

    Args:
        folder: of the model's settings.
        source: of the prompts, for a refusal.

    Raises:
        UserError: naming the first prompt without a shape.
    """
    shapes = buckets.ladder(folder, kinds.native_resolution(folder))
    bucket_of: dict[Shape, Shape] = {}
    for number, prompt in enumerate(prompts, 1):
        if prompt.shape is None:
            raise UserError(
                f"--buckets: prompt {number} of {source} ({prompt.caption[:60]!r}) has no shape; give columns height "
                "and width with whole numbers above 0, or a store as --prompts"
            )
        if prompt.shape not in bucket_of:
            bucket_of[prompt.shape] = buckets.nearest(prompt.shape, shapes)
    return [bucket_of[prompt.shape] for prompt in prompts if prompt.shape]


def shapes_hash(shapes: Sequence[Shape]) -> str:
    """Return the SHA-256 of shapes in their order."""
    return hashlib.sha256(json.dumps(list(shapes)).encode()).hexdigest()


def size_arguments(pipeline: Any, shape: Shape | None) -> dict[str, Any]:
    """Say a size in pixels as a pipeline takes it; without one it draws the size that its model was made for.

    A binned pipeline draws 1024 pixels whatever the model, at the nearest of shapes of its own, and resizes the images
    to what was asked for.
    """
    kind = KINDS.get(type(pipeline).__name__)
    if kind is not None and kind.binned:
        side = pipeline.transformer.config.sample_size * pipeline.vae_scale_factor
        height, width = shape or (side, side)
        return {"height": height, "width": width, "use_resolution_binning": False}
    return {} if shape is None else {"height": shape[0], "width": shape[1]}
