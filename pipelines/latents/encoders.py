"""Steps of the encoder, knowing no engine: raw rows to checked pixels, pixels to latents.

captions.py holds the third, captions to embeddings. Each step is a callable from one Arrow table to another;
pipelines/engine runs them.
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
from pipelines.raw.decode import BadImage, Fit, images_at_once, open_image, shaped_pixels

if TYPE_CHECKING:
    from labelers.clips.safety_checker import CheckerName


class CheckAndDecode:
    """Turn raw rows into rows with a status, and the kept ones' images into pixels.

    Args:
        resolution: side of the square in pixels.
        shapes: the buckets that a pair may go to; without any, all images become squares.
        tolerance: greatest share of an image that its bucket may cut off.
    """

    def __init__(
        self,
        resolution: int,
        strict_labels: bool,
        blocklist: safety.Blocklist | None = None,
        fit: Fit = "crop",
        shapes: Sequence[buckets.Shape] = (),
        tolerance: float = 0.0,
    ) -> None:
        self.resolution = resolution
        self.fit = fit
        self.shapes = shapes
        self.tolerance = tolerance
        self.strict_labels = strict_labels
        self.blocklist = blocklist

    def __call__(self, raw: pa.Table) -> pa.Table:
        """Add pair_id, status, stage and reason to each row.

        Returns:
            The row's ids, label, uids and models, and of the kept height, width and pixels_0, pixels_1: [H*W*3] uint8
            as bytes.
        """
        ids = pairs.pair_ids(raw)
        rows = []
        for pair_id, row in zip(ids, pairs.as_rows(raw), strict=True):
            out: dict[str, object] = {
                name: as_text(row.get(name)) for name in ("image_0_uid", "image_1_uid", "model_0", "model_1")
            }
            out |= {"pair_id": int(pair_id), "contradicts": pairs.contradicts(row["label_0"], row.get("label_1"))}
            rows.append(out | self._judge(row))
        return pa.Table.from_pylist(rows, schema=_DECODED)

    def _judge(self, row: dict[str, object]) -> dict[str, object]:
        caption = row["caption"]
        label = row["label_0"]
        refusal = pairs.check_caption(caption) or pairs.check_label(label, row.get("label_1"), self.strict_labels)
        if refusal:
            return {"status": "quarantined", "stage": refusal.stage, "reason": refusal.reason}
        known = {"prompt_id": pairs.prompt_id(str(caption)), "label_0": label}
        if label == 0.5:
            return known | {"status": "tie"}
        unwanted = self.blocklist.reason(str(caption)) if self.blocklist else None
        if unwanted:
            return {"status": "quarantined", "stage": safety.STAGE, "reason": unwanted}
        try:
            images = [open_image(row[f"jpg_{slot}"]) for slot in (0, 1)]
        except BadImage as error:
            return {"status": "quarantined", "stage": "image", "reason": str(error)}
        height = self.resolution
        width = self.resolution
        if self.shapes:
            sizes = [(image.height, image.width) for image in images]
            height, width = buckets.nearest(sizes[0], self.shapes)
            misfit = buckets.misfit(sizes, (height, width), self.tolerance)
            if misfit:
                return {"status": "quarantined", "stage": buckets.STAGE, "reason": misfit}
        pixels = {
            f"pixels_{slot}": shaped_pixels(image, height, width, self.fit).tobytes()
            for slot, image in enumerate(images)
        }
        return known | pixels | {"height": height, "width": width, "status": "kept"}


_DECODED = pa.schema(
    [("pair_id", pa.int64()), ("prompt_id", pa.int64()), ("label_0", pa.float32())]
    + [(name, pa.string()) for name in schemas.TEXT_COLUMNS]
    + [("contradicts", pa.bool_()), ("status", pa.string())]
    + [(name, pa.int32()) for name in schemas.SIDES]
    + [("pixels_0", pa.large_binary()), ("pixels_1", pa.large_binary())]
)


def as_text(value: object) -> str | None:
    """Return a name as text; one that is not UTF-8 with its bytes spelled out."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return None if value is None else str(value)


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
