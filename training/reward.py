"""Held-out implicit accuracy: does the policy, as a reward model, prefer what was preferred? (Sec. 5.5, S4.1.)"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from training import objectives
from training.backbone import Backbone
from training.loader import Batch, Labelled, assemble

DRAWS = 10  # per pair, S4.1
SEED = 20_231_121  # its draws belong to no training run, so that figures of different runs compare


@dataclass(frozen=True)
class HeldOut:
    """Fixed pairs at fixed draws, one rank's share of them."""

    data: Labelled
    draws: int
    pairs: int
    batch_size: int
    rank: int
    world_size: int

    def batches(self, timestep: Callable[[float], int]) -> Iterator[tuple[int, npt.NDArray[np.int64], Batch]]:
        """Assemble this rank's batches, each with its draw and its positions among the pairs; no caption is dropped."""
        mine = np.arange(self.pairs)[self.rank :: self.world_size]
        parts = [mine[start : start + self.batch_size] for start in range(0, len(mine), self.batch_size)]
        for k in range(self.draws):
            for p in parts:
                yield k, p, assemble(self.data, p, SEED, k, timestep, 0.0)


def pair_errors(backbone: Backbone, network: torch.nn.Module, batch: Batch, autocast: torch.dtype) -> torch.Tensor:
    """Compute the errors [2, B] float32 of winners and losers at the batch's timesteps and noise, in one pass."""
    both = batch.latents.flatten(0, 1)
    noise, timesteps = batch.noise.repeat(2, 1, 1, 1), batch.timesteps.repeat(2)
    conditioning = {name: torch.cat([value, value]) for name, value in batch.conditioning.items()}
    noisy, target = backbone.add_noise(both, noise, timesteps), backbone.target(both, noise, timesteps)
    with torch.autocast(both.device.type, dtype=autocast, enabled=autocast != torch.float32):
        prediction = backbone.predict(network, noisy, timesteps, conditioning)
    return objectives.errors(prediction, target).unflatten(0, (2, -1))


class Reference(Protocol):
    """The frozen model that the policy is held to, by its errors."""

    def errors(self, batch: Batch) -> torch.Tensor:
        """Return the errors [2, B] float32 of winners and losers at the batch's draws, without gradient."""
        ...


@dataclass(frozen=True)
class NetworkReference:
    """A reference that is a network of its own, in memory beside the policy."""

    backbone: Backbone
    network: torch.nn.Module
    autocast: torch.dtype

    @torch.no_grad()
    def errors(self, batch: Batch) -> torch.Tensor:
        """Return the errors [2, B] of winners and losers, in the same shapes as the policy's pass."""
        return pair_errors(self.backbone, self.network, batch, self.autocast)


@dataclass(frozen=True)
class CachedReference:
    """A reference whose errors were computed ahead and come with the batch; no network is held."""

    def errors(self, batch: Batch) -> torch.Tensor:
        """Return the errors [2, B] of winners and losers that encode_reference.py stored."""
        assert batch.reference_errors is not None
        return batch.reference_errors


@torch.no_grad()
def held_out_errors(
    held_out: HeldOut, backbone: Backbone, errors: Callable[[Batch], torch.Tensor], device: torch.device
) -> torch.Tensor:
    """Compute a model's errors on held-out pairs; pairs of other ranks stay zero.

    Args:
        errors: the model's [2, B] float32 on a batch.

    Returns:
        [2, draws, pairs] float32 on device, row 0 winners, row 1 losers.
    """
    found = torch.zeros(2, held_out.draws, held_out.pairs, device=device)
    for draw, positions, batch in held_out.batches(backbone.timestep):
        found[:, draw, torch.from_numpy(positions).to(device)] = errors(batch.to(device))
    return found
