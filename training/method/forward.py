"""The forward pass of a step: noise added, the network asked, and the errors of winners and losers that it makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from training.backbones.backbone import Backbone
from training.method import objectives
from training.method.batch import Batch


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
