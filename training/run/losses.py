"""From a micro-batch's errors to its losses: timestep weights, soft labels, and the baseline that KTO's pairs share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from training.method import forward, objectives
from training.method.batch import Batch

if TYPE_CHECKING:
    from training.run.assembly import Trainer


def batch_losses(
    trainer: Trainer,
    batch: Batch,
    policy: torch.Tensor,
    reference: torch.Tensor | None,
    baseline: torch.Tensor | None,
) -> torch.Tensor:
    """Compute a micro-batch's losses, [B], from native errors [2, B] of policy and reference.

    Args:
        baseline: from step_baseline; None where this micro-batch is all of the rank's share, so that kto's is its own.
    """
    config, weight = trainer.config.objective, _weights(trainer, batch)
    weighted = policy * weight, None if reference is None else reference * weight
    if config.objective == "kto" and baseline is None:
        assert weighted[1] is not None
        baseline = global_baseline([objectives.rewards(weighted[0], weighted[1], config.beta)], trainer.rank.world_size)
    return objectives.loss(config, *weighted, batch.preferred, 0.0 if baseline is None else baseline)


@torch.no_grad()
def step_baseline(trainer: Trainer, network: torch.nn.Module, batches: Sequence[Batch]) -> torch.Tensor | None:
    """Compute kto's z by a first pass over all micro-batches of a step: each of them needs the mean over all.

    Returns:
        None for other objectives, and where there is but one micro-batch: batch_losses then has all it needs.
    """
    config = trainer.config.objective
    if config.objective != "kto" or len(batches) == 1:
        return None
    rewards = []
    for batch in batches:
        moved = batch.to(trainer.rank.device)
        policy = forward.pair_errors(trainer.backbone, network, moved, trainer.config.autocast)
        difference = objectives.rewards(policy, trainer.reference.errors(moved), config.beta)
        rewards.append(difference * _weights(trainer, moved))
    return global_baseline(rewards, trainer.rank.world_size)


def global_baseline(rewards: Sequence[torch.Tensor], world_size: int) -> torch.Tensor:
    """Compute kto's z over all ranks' rewards, a float32 scalar, summed in float64.

    A reward that is not finite is left out: its own pair's loss or gradient stops the step and names that pair alone.
    """
    mine = torch.cat([part.detach().flatten() for part in rewards]).double()
    total = torch.stack([torch.where(mine.isfinite(), mine, 0.0).sum(), mine.new_tensor(len(mine))])
    if world_size > 1:
        dist.all_reduce(total)
    return objectives.kto_baseline(total[0] / total[1]).float()


def _weights(trainer: Trainer, batch: Batch) -> torch.Tensor:
    backbone = trainer.backbone
    return objectives.weights(
        trainer.config.objective, backbone.signal_to_noise(batch.timesteps), backbone.epsilon_factor(batch.timesteps)
    )
