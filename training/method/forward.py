"""The forward pass of a step: noise, predictions, their errors, and the losses that these come to.

PairLosses.of_step takes a step's micro-batches in turn; PairLosses.of takes one of them from start to end. What becomes
of the errors is arithmetic, and stands in training/method/objectives.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from training.backbones.backbone import Backbone
from training.layout import sharding
from training.method import objectives
from training.method.batch import Batch
from training.method.objective_config import ObjectiveConfig


class Reference(Protocol):
    """The frozen model that the policy is held to, by its errors."""

    def errors(self, batch: Batch) -> torch.Tensor:
        """Return the errors [2, B] float32 of winners and losers at the batch's draws, without gradient."""
        ...


@dataclass(frozen=True, kw_only=True)
class MeasuredBatch:
    """What a micro-batch came to; only the losses have a gradient."""

    losses: torch.Tensor  # [B] float32
    policy_errors: torch.Tensor  # [2, B] float32, row 0 winners, row 1 losers
    reference_errors: torch.Tensor | None  # the same of the reference; None where the objective needs none
    margins: torch.Tensor  # [B] float32, negative is good; 0 without a reference
    accuracies: (
        torch.Tensor
    )  # [B] float32, 1 where the policy prefers the winner, 0 where the loser, a half for neither
    timesteps: torch.Tensor  # [B] int64


@dataclass(frozen=True, kw_only=True)
class PairLosses:
    """From micro-batches to losses: the objective, and the two models that it compares."""

    objective: ObjectiveConfig
    backbone: Backbone
    policy: torch.nn.Module  # wrapped, where workers average its gradients
    reference: Reference
    autocast: torch.dtype
    device: torch.device
    world_size: int

    def of_step(self, batches: Sequence[Batch]) -> Iterator[MeasuredBatch]:
        """Yield the losses of each of a step's micro-batches; the caller runs the backward pass before the next.

        That pass falls inside the block that has gradients averaged over the workers, on the last micro-batch only.
        """
        baseline = self.step_baseline(batches)
        for batch in batches:
            with sharding.synchronised(self.policy, last=batch is batches[-1]):
                yield self.of(batch.to(self.device), baseline)

    def of(self, batch: Batch, baseline: torch.Tensor | None) -> MeasuredBatch:
        """Compute the losses of one micro-batch: policy's errors, reference's errors, objective.

        Args:
            batch: on the policy's device.
            baseline: from step_baseline.
        """
        policy_errors = pair_errors(self.backbone, self.policy, batch, self.autocast)
        reference_errors = self.reference.errors(batch) if self.objective.needs_reference else None
        losses = objectives.pair_losses(
            self.objective, self.backbone, batch, policy_errors, reference_errors, baseline, self.world_size
        )
        policy_errors = policy_errors.detach()
        margins = objectives.margins(policy_errors, policy_errors if reference_errors is None else reference_errors)
        return MeasuredBatch(
            losses=losses,
            policy_errors=policy_errors,
            reference_errors=reference_errors,
            margins=margins,
            accuracies=objectives.implicit_accuracy(margins),
            timesteps=batch.timesteps,
        )

    @torch.no_grad()
    def step_baseline(self, batches: Sequence[Batch]) -> torch.Tensor | None:
        """Compute z of kto by a first pass over all micro-batches of a step: each of them needs the mean over all.

        Returns:
            A float32 scalar. None for other objectives, and where there is but one micro-batch: its z is its own.
        """
        if self.objective.objective != "kto" or len(batches) == 1:
            return None
        parts = []
        for batch in batches:
            moved = batch.to(self.device)
            policy_errors = pair_errors(self.backbone, self.policy, moved, self.autocast)
            rewards = objectives.rewards(policy_errors, self.reference.errors(moved), self.objective.beta)
            parts.append(rewards * objectives.weights(self.objective, self.backbone, moved.timesteps))
        return objectives.kto_baseline(parts, self.world_size)


def pair_errors(backbone: Backbone, network: torch.nn.Module, batch: Batch, autocast: torch.dtype) -> torch.Tensor:
    """Compute a network's errors at the batch's timesteps and noise, winners and losers in one pass.

    Args:
        autocast: dtype of the network's arithmetic; the errors are float32 whatever it is.

    Returns:
        [2, B] float32, row 0 winners, row 1 losers.
    """
    latents = batch.latents.flatten(0, 1)  # [2B, C, H, W], winners first
    noise = batch.noise.repeat(2, 1, 1, 1)  # Eq. 14: both images of a pair share noise and timestep
    timesteps = batch.timesteps.repeat(2)
    conditioning = {name: torch.cat([value, value]) for name, value in batch.conditioning.items()}
    noisy = backbone.add_noise(latents, noise, timesteps)
    target = backbone.target(latents, noise, timesteps)
    with torch.autocast(latents.device.type, dtype=autocast, enabled=autocast != torch.float32):
        prediction = backbone.predict(network, noisy, timesteps, conditioning)
    return errors(prediction, target).unflatten(0, (2, -1))


def errors(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute each image's error: the mean over C, H, W of (prediction - target)^2.

    Args:
        prediction: [B, C, H, W], any float dtype; the arithmetic is float32 or better.
        target: the same shape.

    Returns:
        [B], 0 or more: float32, or float64 where the target is.
    """
    wide = torch.promote_types(target.dtype, torch.float32)
    return (prediction.to(wide) - target.to(wide)).square().flatten(1).mean(1)


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
