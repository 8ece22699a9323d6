"""The forward pass of a step: noise, predictions, their errors, and the losses that these come to.

PairLosses.of_step takes a step's micro-batches in turn; PairLosses.of takes one of them from start to end. What becomes
of the errors is arithmetic, and stands in training/method/step_losses.py and objectives.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Protocol

import torch

from training.backbones.backbone import Backbone
from training.layout import sharding
from training.method import objectives, step_losses
from training.method.batch import Batch, Images
from training.method.objective_config import ObjectiveConfig
from training.method.step_losses import StepValues

ReferenceOf = Callable[[Batch], torch.Tensor]  # a micro-batch's errors [2, B] float32, without gradient


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
    beta: float | None  # of the step; None where the objective needs no reference


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
        batches, values = self.first_pass(batches)
        begun: ReferenceOf | None = None
        for batch, later in zip_longest(batches, batches[1:]):
            reference = begun or self.begin_reference(batch)
            with sharding.synchronised(self.policy, last=later is None):
                measured = self.of(batch.to(self.device), reference, values)
                begun = None if later is None else self.begin_reference(later)  # one ahead: whoever ends waits for it
                yield measured

    def of(self, batch: Batch, reference: ReferenceOf, values: StepValues | None) -> MeasuredBatch:
        """Compute the losses of one micro-batch: policy's errors, reference's errors, objective.

        Args:
            batch: on the policy's device.
            reference: from begin_reference.
            values: of the step, from first_pass; None where this micro-batch is all that this rank has of it.
        """
        objective = self.objective
        residuals = pair_residuals(self.backbone, self.policy, batch, self.autocast)
        policy_errors = mean_squares(residuals).unflatten(0, (2, -1))
        reference_errors = reference(batch) if objective.needs_reference else None
        held = policy_errors.detach()
        if values is None:
            values = self.step_values([batch], [held], [] if reference_errors is None else [reference_errors])
        overlaps = None if objective.safeguard is None else overlap(residuals.detach())
        losses = step_losses.pair_losses(
            objective, self.backbone, batch, policy_errors, reference_errors, values, overlaps
        )
        margins = objectives.margins(held, held if reference_errors is None else reference_errors)
        return MeasuredBatch(
            losses=losses,
            policy_errors=held,
            reference_errors=reference_errors,
            margins=margins,
            accuracies=objectives.implicit_accuracy(margins),
            timesteps=batch.timesteps,
            beta=values.beta if objective.needs_reference else None,
        )

    @torch.no_grad()
    def first_pass(self, batches: Sequence[Batch]) -> tuple[Sequence[Batch], StepValues | None]:
        """Find a step's values by a pass over all its micro-batches before the first loss, where a loss needs them.

        The reference's errors of this pass stay in the micro-batches, so only the policy's are computed twice.

        Returns:
            The micro-batches, and the step's values: None where `of` finds them from its one micro-batch.
        """
        if not self.objective.needs_whole_step or len(batches) == 1:
            return batches, None
        policy_errors = []
        seen = []
        for batch in batches:
            moved = batch.to(self.device)
            policy_errors.append(pair_errors(self.backbone, self.policy, moved, self.autocast))
            seen.append(replace(moved, reference_errors=self.reference_errors(moved)))
        reference_errors = [batch.reference_errors for batch in seen if batch.reference_errors is not None]
        return seen, self.step_values(seen, policy_errors, reference_errors)

    def begin_reference(self, batch: Batch) -> ReferenceOf:
        """Begin the reference's errors; what is returned waits for them, or computes them only then.

        On a CPU with a core to spare they are computed beside the policy's passes, by the same operations. Those of
        the next micro-batch then fall beside a backward pass, which leaves Python to them.
        """
        alone = self.device.type == "cpu" and self.world_size == 1 and self.objective.needs_reference
        if alone and isinstance(self.reference, NetworkReference) and _has_a_spare_core():
            begun = self.reference.beside.submit(self.reference_errors, batch)
            return lambda _: begun.result()
        return self.reference_errors

    def reference_errors(self, batch: Batch) -> torch.Tensor:
        """Return the reference's errors [2, B] float32: the batch's own where it has them, else computed now."""
        return self.reference.errors(batch) if batch.reference_errors is None else batch.reference_errors

    def step_values(
        self, batches: Sequence[Batch], policy_errors: list[torch.Tensor], reference_errors: list[torch.Tensor]
    ) -> StepValues:
        """Find a step's values from the native errors [2, B] of all of this rank's micro-batches."""
        if not self.objective.needs_whole_step:
            return step_losses.step_values(self.objective, [], [])
        weights = [objectives.weights(self.objective, self.backbone, batch.timesteps) for batch in batches]
        weighted = [
            [errors * weight for errors, weight in zip(of_batches, weights, strict=True)]
            for of_batches in (policy_errors, reference_errors)
        ]
        return step_losses.step_values(self.objective, weighted[0], weighted[1], self.world_size)


def _has_a_spare_core() -> bool:
    return len(os.sched_getaffinity(0)) >= 2 * torch.get_num_threads()


def _one_thread() -> ThreadPoolExecutor:
    """Make a thread whose operations take as many threads as this one's: their last bits depend on it."""
    return ThreadPoolExecutor(1, "reference", torch.set_num_threads, (torch.get_num_threads(),))


def pair_errors(backbone: Backbone, network: torch.nn.Module, batch: Batch, autocast: torch.dtype) -> torch.Tensor:
    """Compute a network's errors at the batch's timesteps and noise, winners and losers in one pass.

    Args:
        autocast: dtype of the network's arithmetic; the errors are float32 whatever it is.

    Returns:
        [2, B] float32, row 0 winners, row 1 losers.
    """
    return mean_squares(pair_residuals(backbone, network, batch, autocast)).unflatten(0, (2, -1))


def pair_residuals(backbone: Backbone, network: torch.nn.Module, batch: Batch, autocast: torch.dtype) -> torch.Tensor:
    """Compute what a network's predictions miss their targets by, in the same pass; arguments as in pair_errors.

    Returns:
        [2B, C, H, W] float32, winners first.
    """
    return image_residuals(backbone, network, batch.images(), autocast)


def image_residuals(
    backbone: Backbone, network: torch.nn.Module, images: Images, autocast: torch.dtype
) -> torch.Tensor:
    """Compute what a network's predictions of images miss their targets by, [N, C, H, W] float32; see pair_errors."""
    latents = images.latents
    timesteps = images.timesteps
    target = backbone.target(latents, images.noise, timesteps)
    with torch.autocast(latents.device.type, dtype=autocast, enabled=autocast != torch.float32):
        noisy = backbone.add_noise(latents, images.noise, timesteps)  # float32; at the level that autocast lets through
        prediction = backbone.predict(network, noisy, timesteps, images.conditioning)
    return residual(prediction, target)


def residual(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Subtract a target from a prediction of any float dtype: float32, or float64 where the target is."""
    wide = torch.promote_types(target.dtype, torch.float32)
    return prediction.to(wide) - target.to(wide)


def errors(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute each image's error: the mean over C, H, W of (prediction - target)^2.

    Args:
        prediction: [B, C, H, W], any float dtype; the arithmetic is float32 or better.
        target: the same shape.

    Returns:
        [B], 0 or more: float32, or float64 where the target is.
    """
    return mean_squares(residual(prediction, target))


def mean_squares(residuals: torch.Tensor) -> torch.Tensor:
    """Take the mean over C, H, W of squared residuals [B, C, H, W]: one error an image, [B]."""
    return residuals.square().flatten(1).mean(1)


def overlap(residuals: torch.Tensor) -> torch.Tensor:
    """Compute each pair's overlap, the mean over C, H, W of winner's times loser's residual [2B, C, H, W]: [B]."""
    winner, loser = residuals.unflatten(0, (2, -1))
    return (winner * loser).flatten(1).mean(1)


@dataclass(frozen=True)
class NetworkReference:
    """A reference that is a network of its own, in memory beside the policy."""

    backbone: Backbone
    network: torch.nn.Module
    autocast: torch.dtype
    beside: ThreadPoolExecutor = field(default_factory=_one_thread, repr=False, compare=False)

    @torch.no_grad()
    def errors(self, batch: Batch) -> torch.Tensor:
        """Return the errors [2, B] of winners and losers, in the same shapes as the policy's pass."""
        return pair_errors(self.backbone, self.network, batch, self.autocast)

    @torch.no_grad()
    def image_errors(self, images: Images) -> torch.Tensor:
        """Return the errors [N] of images, each at its own draw."""
        return mean_squares(image_residuals(self.backbone, self.network, images, self.autocast))


@dataclass(frozen=True)
class CachedReference:
    """A reference whose errors were computed ahead and come with the batch; no network is held."""

    def errors(self, batch: Batch) -> torch.Tensor:
        """Return the errors [2, B] of winners and losers that encode_reference.py stored."""
        assert batch.reference_errors is not None
        return batch.reference_errors
