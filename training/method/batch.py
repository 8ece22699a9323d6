"""A micro-batch: pairs with their draws made, as the objective takes them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images with their draws made, as a network is asked for their errors."""

    latents: torch.Tensor  # [N, C, H, W] float32
    noise: torch.Tensor  # [N, C, H, W] float32
    timesteps: torch.Tensor  # [N] int64
    conditioning: Mapping[str, torch.Tensor]  # the store's embedding columns, [N, ...] float32 each

    def to(self, device: torch.device) -> Images:
        """Return the same images with their tensors on a device."""
        return Images(
            latents=self.latents.to(device, non_blocking=True),
            noise=self.noise.to(device, non_blocking=True),
            timesteps=self.timesteps.to(device, non_blocking=True),
            conditioning={name: value.to(device, non_blocking=True) for name, value in self.conditioning.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A micro-batch; row 0 of latents are the winners, row 1 the losers."""

    pair_ids: npt.NDArray[np.int64]  # [B]
    latents: torch.Tensor  # [2, B, C, H, W] float32
    noise: torch.Tensor  # [B, C, H, W] float32
    timesteps: torch.Tensor  # [B] int64
    conditioning: Mapping[str, torch.Tensor]  # the store's embedding columns, [B, ...] float32 each
    preferred: torch.Tensor  # [B] float32, P(row 0 is preferred); 1 but for soft labels
    reference_errors: torch.Tensor | None = None  # [2, B] float32, row 0 winners, row 1 losers; where cached

    def to(self, device: torch.device) -> Batch:
        """Return the same batch with its tensors on a device."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(
            pair_ids=self.pair_ids,
            latents=move(self.latents),
            noise=move(self.noise),
            timesteps=move(self.timesteps),
            conditioning={name: move(value) for name, value in self.conditioning.items()},
            preferred=move(self.preferred),
            reference_errors=None if self.reference_errors is None else move(self.reference_errors),
        )

    def images(self) -> Images:
        """Return the pairs' images, winners first; both of a pair share noise, timestep and caption (Eq. 14)."""
        return Images(
            latents=self.latents.flatten(0, 1),
            noise=self.noise.repeat(2, 1, 1, 1),
            timesteps=self.timesteps.repeat(2),
            conditioning={name: torch.cat([value, value]) for name, value in self.conditioning.items()},
        )

    def fingerprint(self, position: int) -> int:
        """Hash (position in the global batch, pair, timestep, noise) of each row and add the hashes up, modulo 2^64.

        Args:
            position: of the first row in the global batch.
        """
        total = 0
        for index, pair_id in enumerate(self.pair_ids):
            label = f"{position + index}/{pair_id}/{int(self.timesteps[index])}/".encode()
            digest = hashlib.blake2b(label + self.noise[index].numpy().tobytes(), digest_size=8).digest()
            total += int.from_bytes(digest, "little")
        return total % (1 << 64)
