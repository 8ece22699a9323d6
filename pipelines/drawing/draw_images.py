"""Step: captions and seeds to images, with a pipeline that each copy loads once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from infra.base import cpu, models
from pipelines.drawing import image_sets, negative, sampling, start_images
from pipelines.latents import kinds, schemas
from pipelines.raw.decode import decode_image


class DrawImages:
    """Step: captions and seeds, and start images where there is a strength, to PNG images."""

    def __init__(
        self,
        model: models.Model,
        steps: int,
        guidance_scale: float,
        dtype: str,
        max_tokens: int | None = None,
        lora: str | None = None,
        strength: float | None = None,
        refiner: models.Model | None = None,
        refiner_start: float | None = None,
        negative_model: models.Model | None = None,
    ) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            cpu.keep_freed_memory()
        kind = getattr(torch, dtype)
        folder = model.folder()
        adapters = models.adapters_folder("--lora", lora) if lora else None
        self.pipeline = sampling.load_pipeline(folder, kind, device, max_tokens, adapters, edits=strength is not None)
        if negative_model:
            negative.attach(self.pipeline, negative_model.folder(flag="--negative-model"), kind, device)
        self.steps = steps
        self.guidance_scale = guidance_scale
        self.max_tokens = max_tokens
        self.strength = strength
        self.side = kinds.native_resolution(folder) if strength is not None else 0
        self.refiner = None
        if refiner and refiner_start:
            loaded = sampling.load_pipeline(refiner.folder(flag="--refiner"), kind, device)
            self.refiner = sampling.Refiner(loaded, refiner_start)

    def __call__(self, wanted: pa.Table) -> pa.Table:
        """Add the column image, PNG bytes, to image_id, caption, image_index and image_seed.

        Start images go, and so do height and width where images have shapes of their own.
        """
        edit = None
        if self.strength is not None:
            starts = wanted[start_images.COLUMN].to_pylist()
            pictures = [Image.fromarray(decode_image(content, self.side)) for content in starts]
            edit = sampling.Edit(pictures, self.strength)
            wanted = wanted.drop_columns([start_images.COLUMN])
        if schemas.SIDES[0] not in wanted.column_names:
            return image_sets.with_images(wanted, self._draw(wanted, edit))
        sides = np.stack([wanted[side].to_numpy() for side in schemas.SIDES], axis=1)
        wanted = wanted.drop_columns([*schemas.SIDES])
        drawn: dict[int, Image.Image] = {}
        for height, width in np.unique(sides, axis=0).tolist():  # a pass has one shape
            places = np.flatnonzero((sides == (height, width)).all(1))
            drawn |= zip(places.tolist(), self._draw(wanted.take(places), shape=(height, width)), strict=True)
        return image_sets.with_images(wanted, [drawn[place] for place in range(wanted.num_rows)])

    def _draw(
        self, wanted: pa.Table, edit: sampling.Edit | None = None, shape: tuple[int, int] | None = None
    ) -> list[Image.Image]:
        return sampling.draw_images(
            self.pipeline,
            wanted["caption"].to_pylist(),
            wanted["image_seed"].to_pylist(),
            self.steps,
            self.guidance_scale,
            self.max_tokens,
            edit,
            self.refiner,
            shape=shape,
        )
