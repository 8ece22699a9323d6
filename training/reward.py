"""Held-out implicit accuracy: does the policy, as a reward model, prefer what was preferred? (Sec. 5.5, S4.1.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from training import objectives
from training.backbone import Backbone
from training.loader import Batch, Labelled, assemble

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

    def batches(self, timestep: Callable[[float], int]) -> list[tuple[npt.NDArray[np.int64], Batch]]:
        """Assemble this rank's batches, each with its positions among the pairs; no caption is dropped."""
        mine = np.arange(self.pairs)[self.rank :: self.world_size]
        parts = [mine[start : start + self.batch_size] for start in range(0, len(mine), self.batch_size)]
        return [(p, assemble(self.data, p, SEED, k, timestep, 0.0)) for k in range(self.draws) for p in parts]


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


@torch.no_grad()
def margin_sums(
    backbone: Backbone,
    policy: torch.nn.Module,
    reference: Reference,
    held_out: HeldOut,
    autocast: torch.dtype,
    device: torch.device,
) -> torch.Tensor:
    """Add up each held-out pair's margin over the draws; pairs of other ranks stay zero.

    Returns:
        [pairs] float64 on device; summed over ranks and divided by the draws it is the mean margin.
    """
    sums = torch.zeros(held_out.pairs, dtype=torch.float64, device=device)
    for positions, batch in held_out.batches(backbone.timestep):
        moved = batch.to(device)
        margin = objectives.margins(pair_errors(backbone, policy, moved, autocast), reference.errors(moved))
        sums[torch.from_numpy(positions).to(device)] += margin.double()
    return sums
