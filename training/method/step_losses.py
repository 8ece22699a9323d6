"""From a micro-batch's errors to its losses: weights, the safeguard, the objective, and what a step's pairs share.

The formulas stand in training/method/objectives.py and training/method/stability.py; this file joins them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from training.method import objectives, stability
from training.method.batch import Batch
from training.method.objective_config import ObjectiveConfig


@dataclass(frozen=True)
class StepValues:
    """What all pairs of a step have in common: found from its whole global batch, or set."""

    beta: float
    baseline: torch.Tensor | float = 0.0  # z of kto, a scalar without gradient


def pair_losses(
    config: ObjectiveConfig,
    levels: objectives.NoiseLevels,
    batch: Batch,
    policy_errors: torch.Tensor,
    reference_errors: torch.Tensor | None,
    values: StepValues,
    overlaps: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the losses of a micro-batch from native errors: weigh the errors, guard winners, apply the objective.

    Args:
        levels: the backbone's noise schedule.
        batch: its timesteps [B] int64 and preferred [B] float32 are read.
        policy_errors: [2, B] float32, with gradient.
        reference_errors: [2, B] float32, without gradient; None where the objective needs none.
        values: of the step, from step_values.
        overlaps: [B] float32, for the safeguard, see stability.loser_scales.

    Returns:
        [B] float32, with gradient.
    """
    config = config.with_beta(values.beta)
    weight = objectives.weights(config, levels, batch.timesteps)
    policy_errors = policy_errors * weight
    reference_errors = None if reference_errors is None else reference_errors * weight
    if config.safeguard is not None:
        assert reference_errors is not None
        assert overlaps is not None
        policy_errors = guarded(config, policy_errors, reference_errors, overlaps * weight, batch.preferred)
    return objectives.loss(config, policy_errors, reference_errors, batch.preferred, values.baseline)


def guarded(
    config: ObjectiveConfig,
    policy_errors: torch.Tensor,
    reference_errors: torch.Tensor,
    overlaps: torch.Tensor,
    preferred: torch.Tensor | float,
) -> torch.Tensor:
    """Return weighted errors [2, B] whose losers send back only as much gradient as their winners bear.

    A pair beyond its turning point pulls back: there the loser's gradient helps the winner, and stays whole.
    """
    assert config.safeguard is not None
    held = policy_errors.detach()
    u = objectives.logits(objectives.margins(held, reference_errors), config.known_beta)
    scales = stability.loser_scales(held[0], overlaps, config.safeguard)
    return stability.scale_loser_gradients(
        policy_errors, torch.where(u < turning_point(config, preferred), scales, 1.0)
    )


def turning_point(config: ObjectiveConfig, preferred: torch.Tensor | float) -> torch.Tensor | float:
    """Return the logit where a pair's loss is least, [B] or one for all: below it the loser's error is pushed up."""
    match config.objective:
        case "ipo":
            return 0.5
        case "dmpo":
            return math.log((1 - config.dmpo_alpha) / config.dmpo_alpha)
        case "conservative":
            a = config.label_smoothing
            return math.log((1 - a) / a) if a else math.inf
        case "soft":
            return torch.logit(torch.as_tensor(preferred))
        case _:
            return math.inf


def step_values(
    config: ObjectiveConfig,
    policy_errors: Sequence[torch.Tensor],
    reference_errors: Sequence[torch.Tensor],
    world_size: int = 1,
) -> StepValues:
    """Find what all pairs of a step have in common.

    Args:
        policy_errors: this rank's weighted errors [2, B] by micro-batch, without gradient; objectives that need no
            whole step read neither these nor the next.
        reference_errors: the same of the reference.
        world_size: how many ranks share the global batch; all of them must call this.
    """
    if not config.needs_whole_step:
        return StepValues(config.known_beta)
    both = list(zip(policy_errors, reference_errors, strict=True))
    if config.beta == "auto":
        mine = torch.cat([objectives.margins(policy, reference) for policy, reference in both]).double()
        of_all = stability.of_all_ranks(mine, world_size).cpu().numpy()
        return StepValues(stability.auto_beta(of_all, config.beta_target, config.beta_most))
    images = [objectives.rewards(policy, reference, config.beta) for policy, reference in both]
    return StepValues(config.beta, objectives.kto_baseline(images, world_size))
