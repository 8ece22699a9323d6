"""Step of the encoder of groups, knowing no engine: pixels to latents.

It is that of pairs (encoders.py) for one image at a time; a group's images are each encoded once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from infra.base import models
from pipelines.latents import safety, schemas
from pipelines.latents.encode_config import Dtype, Posterior, StoreDtype
from pipelines.latents.encoders import LatentEncoder

if TYPE_CHECKING:
    from labelers.clips.safety_checker import CheckerName


class ImageEncoder:
    """Turn images' pixels into normalised latents, by the arithmetic of LatentEncoder.

    The noise of a posterior's sample is a function of the seed and the image.
    """

    def __init__(
        self,
        model: models.Model,
        resolution: int,
        posterior: Posterior,
        flip: bool,
        seed: int,
        batch_size: int,
        dtype: Dtype,
        checker: CheckerName | None = None,
        store_dtype: StoreDtype = "float16",
    ) -> None:
        self.encoder = LatentEncoder(
            model, resolution, posterior, flip, seed, batch_size, dtype, store_dtype=store_dtype
        )
        self.store_dtype = store_dtype
        self.shape = (-1, resolution, resolution, 3)
        self.flip = flip
        self.hint = "; SDXL's own VAE overflows in float16: use --dtype float32" if dtype == "float16" else ""
        self.check = None
        if checker:
            from labelers.clips.safety_checker import SafetyChecker  # takes a second to import

            self.check = safety.CheckPairs(SafetyChecker(checker.files(), batch_size), ("pixels",))

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Replace pixels by latents [C*H*W]; an image whose latents are not finite is quarantined."""
        if self.check:
            decoded = self.check(decoded)
        kept = np.array(decoded["status"].to_pylist()) == "kept"
        rows = decoded.filter(pa.array(kept))
        ids = rows["image_id"].to_numpy()
        pixels = np.frombuffer(b"".join(rows["pixels"].to_pylist()), np.uint8).reshape(self.shape)
        latents = {"latents": self.encoder.encode(pixels, ids, 0)}
        if self.flip:
            latents["latents_flipped"] = self.encoder.encode(pixels[:, :, ::-1], ids, 0)
        good = kept.copy()
        good[kept] = np.logical_and.reduce([np.isfinite(values).all(1) for values in latents.values()])
        columns = {name: decoded[name] for name in decoded.column_names if name != "pixels"}
        for name, values in latents.items():
            full = np.zeros((len(kept), self.encoder.latent_size), self.store_dtype)
            full[good] = values[good[kept]]
            columns[name] = schemas.value_lists(full, ~good)
        lost = {"status": "quarantined", "stage": "latent", "reason": f"latents are not finite{self.hint}"}
        for name, value in lost.items():
            column = np.where(kept & ~good, value, np.array(decoded[name].to_pylist(), object))
            columns[name] = pa.array(column, pa.string())
        schema = schemas.images_schema(self.encoder.latent_size, self.flip, self.store_dtype)
        return pa.table([columns[name] for name in schema.names], schema=schema)
