"""Step of the encoder, knowing no engine: pixels to latents.

decoding.py holds the step before it, raw rows to checked pixels, and captions.py captions to embeddings. Each step is a
callable from one Arrow table to another; pipelines/engine runs them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from infra.base import cpu, models
from pipelines.latents import autoencoders, buckets, safety, schemas
from pipelines.latents.encode_config import Dtype, Posterior, StoreDtype
from pipelines.raw import pairs
from pipelines.raw.decode import images_at_once

if TYPE_CHECKING:
    from labelers.clips.safety_checker import CheckerName


class LatentEncoder:
    """Turn pixels into normalised latents with a frozen VAE (autoencoders.py): z = (posterior - shift) * scale.

    The safety checker, where there is one, looks first: in the same copy, so that both share its GPU.
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
        shapes: Sequence[buckets.Shape] = (),
    ) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cpu":
            cpu.keep_freed_memory()
        self.dtype = getattr(torch, dtype)
        models.quiet()
        folder = model.folder((autoencoders.VAE,))
        self.vae = autoencoders.load_vae(folder, self.dtype).to(self.device)
        self.shift, self.scale = autoencoders.normalisation(folder).tensors()
        self.shapes = [autoencoders.shaped_latents(self.vae.config, shape) for shape in shapes]
        self.latent_shape = autoencoders.latent_shape(self.vae.config, resolution)
        self.posterior = posterior
        self.flip = flip
        self.seed = seed
        self.store_dtype = store_dtype
        # A pass has one shape, and of a rare one a batch has few: passes are small, so that little is padding.
        self.batch_size = images_at_once(resolution, batch_size) if shapes else batch_size
        self.check: safety.CheckPairs | None = None
        if checker:
            from labelers.clips.safety_checker import SafetyChecker  # takes a second to import

            self.check = safety.CheckPairs(SafetyChecker(checker.files(), batch_size))

    def __call__(self, decoded: pa.Table) -> pa.Table:
        """Replace pixels by latents [C*H*W] (moments: [2*C*H*W], mean then standard deviation).

        With buckets zeros follow, up to the number of values of the largest.
        A pair whose latents are not finite is quarantined, in float16 with a hint: SDXL's own VAE overflows there.
        """
        if self.check:
            decoded = self.check(decoded)
        kept = np.array(decoded["status"].to_pylist()) == "kept"
        ids = decoded["pair_id"].to_numpy()[kept]
        latents = self._encode_rows(decoded.filter(pa.array(kept)), ids)
        finite = np.logical_and.reduce([np.isfinite(v).all(1) for v in latents.values()])
        return self._assemble(decoded, kept, latents, finite)

    def _encode_rows(self, rows: pa.Table, ids: npt.NDArray[np.int64]) -> dict[str, schemas.Values]:
        """Encode both slots of kept pairs, those of one shape together: [rows, latent_size] by column."""
        out: dict[str, schemas.Values] = {
            name: np.zeros((len(ids), self.latent_size), self.store_dtype) for name in schemas.latent_columns(self.flip)
        }
        sides = np.stack([rows[name].to_numpy() for name in schemas.SIDES], axis=1)
        for height, width in np.unique(sides, axis=0):
            places = np.flatnonzero((sides == (height, width)).all(1))
            for slot in (0, 1):
                content = b"".join(rows[f"pixels_{slot}"].take(pa.array(places)).to_pylist())
                pixels = np.frombuffer(content, np.uint8).reshape(-1, height, width, 3)
                orientations = {"": pixels} | ({"_flipped": pixels[:, :, ::-1]} if self.flip else {})
                for suffix, seen in orientations.items():
                    latents = self.encode(seen, ids[places], slot)
                    out[f"latents_{slot}{suffix}"][places, : latents.shape[1]] = latents
        return out

    @torch.inference_mode()
    def encode(self, pixels: npt.NDArray[np.uint8], ids: npt.NDArray[np.int64], slot: int) -> schemas.Values:
        """Encode images of one shape [B, H, W, 3] uint8 into [B, C*h*w] of the store's dtype.

        Every forward pass has the same batch size, the last one padded: a convolution's last bits depend on it, and a
        resumed store must equal an uninterrupted one.
        """
        parts = []
        for start in range(0, len(pixels), self.batch_size):
            part = pixels[start : start + self.batch_size]
            padded = np.zeros((self.batch_size, *part.shape[1:]), np.uint8)
            padded[: len(part)] = part
            images = torch.from_numpy(padded).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
            both = autoencoders.posterior(self.vae, images.to(self.dtype))
            mean = both[0][: len(part)].float().cpu()
            std = both[1][: len(part)].float().cpu()
            parts.append(self._posterior(mean, std, ids[start : start + len(part)], slot))
        return (
            np.concatenate(parts).astype(self.store_dtype)
            if parts
            else np.empty((0, self.latent_size), self.store_dtype)
        )

    def _posterior(
        self, mean: torch.Tensor, std: torch.Tensor, ids: npt.NDArray[np.int64], slot: int
    ) -> npt.NDArray[np.float32]:
        if self.posterior == "moments":
            return torch.cat([(mean - self.shift) * self.scale, std * self.scale], 1).flatten(1).numpy()
        if self.posterior == "sample":
            noise = np.stack([_posterior_noise(self.seed, int(i), slot, tuple(mean.shape[1:])) for i in ids])
            mean = mean + std * torch.from_numpy(noise)
        return ((mean - self.shift) * self.scale).flatten(1).numpy()

    @property
    def latent_size(self) -> int:
        """Return the number of values that a row has per image."""
        largest = max(map(math.prod, self.shapes or [self.latent_shape]))
        return largest * (2 if self.posterior == "moments" else 1)

    def _assemble(
        self,
        decoded: pa.Table,
        kept: npt.NDArray[np.bool_],
        latents: dict[str, schemas.Values],
        finite: npt.NDArray[np.bool_],
    ) -> pa.Table:
        good = kept.copy()
        good[kept] = finite
        columns = {name: decoded[name] for name in decoded.column_names if not name.startswith("pixels_")}
        columns |= {name: pc.if_else(pa.array(good), columns[name], None) for name in schemas.SIDES}
        for name, values in latents.items():
            full = np.zeros((len(kept), self.latent_size), self.store_dtype)
            full[good] = values[finite]
            columns[name] = schemas.value_lists(full, ~good)
        lost = kept & ~good
        hint = "; SDXL's own VAE overflows in float16: use --dtype float32" if self.dtype == torch.float16 else ""
        reason = f"latents are not finite{hint}"
        for name, value in (("status", "quarantined"), ("stage", "latent"), ("reason", reason)):
            columns[name] = pa.array(np.where(lost, value, np.array(decoded[name].to_pylist(), object)), pa.string())
        schema = schemas.pairs_schema(self.latent_size, self.flip, self.store_dtype, bucketed=bool(self.shapes))
        return pa.table([columns[name] for name in schema.names], schema=schema)


def _posterior_noise(seed: int, pair_id: int, slot: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    key = pairs.hash64(b"posterior", str((seed, pair_id, slot)).encode()) % (1 << 64)
    return np.random.Generator(np.random.Philox(key=key)).standard_normal(shape, dtype=np.float32)
