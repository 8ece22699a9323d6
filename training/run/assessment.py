"""What is found out about the policy at a checkpoint: validation images and their score, held-out implicit accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from infra.base import files
from training.data.loader import apply_labels
from training.data.staging import stage
from training.method import forward, objectives
from training.method.batch import Batch
from training.run import reward
from training.run.validation import GRID, paste_grid
from training.settings.config import TrainConfig

if TYPE_CHECKING:
    from training.run.assembly import Rank, Trainer


def agree(value: Any, rank: Rank) -> Any:
    """Return rank 0's value on every rank."""
    told = [value]
    if rank.world_size > 1:
        dist.broadcast_object_list(told, src=0)
    return told[0]


def assess(trainer: Trainer, step: int) -> None:
    """Judge the policy after a step and note what was found."""
    values: dict[str, float] = {}
    with trainer.judged(), trainer.gathered():  # the average is put in place of the shards
        if trainer.validator:
            values |= validate(trainer, step)
        if trainer.held_out:
            assert trainer.held_out_reference is not None
            values["held_out_accuracy"] = held_out_accuracy(trainer, trainer.held_out, trainer.held_out_reference)
    trainer.journal.assessment(step, values)
    if trainer.rank.world_size > 1:
        dist.barrier()


def validate(trainer: Trainer, step: int) -> dict[str, float]:
    """Draw and judge the validation images over all ranks; keep a grid of the first (Sec. 5.1)."""
    assert trainer.validator is not None
    scores, grid = trainer.validator.run()
    total, parts = torch.from_numpy(scores).to(trainer.rank.device), [grid]
    if trainer.rank.world_size > 1:
        dist.all_reduce(total)
        parts = [[] for _ in range(trainer.rank.world_size)]
        dist.all_gather_object(parts, grid)
    ordered = [image for _, image in sorted((pair for part in parts for pair in part), key=lambda pair: pair[0])]
    trainer.journal.picture(step, paste_grid(ordered[:GRID]))
    found = total.cpu().numpy()
    return {"validation_median": float(np.median(found)), "validation_mean": float(found.mean())}


def held_out(config: TrainConfig, rank: Rank, draws: int, limit: int | None) -> reward.HeldOut | None:
    """Open this rank's share of the held-out pairs, the first so many of them; None where there is no such store."""
    if config.data.held_out_store is None:
        return None
    path = files.resolve(config.data.held_out_store)
    data = apply_labels(stage(path, config.data.cache), path, "human")
    pairs = min(limit or len(data.rows), len(data.rows))
    return reward.HeldOut(data, draws, pairs, config.data.micro_batch, rank.rank, rank.world_size)


def held_out_accuracy(trainer: Trainer, pairs: reward.HeldOut, reference: torch.Tensor) -> float:
    """Compute the implicit accuracy on held-out pairs over all ranks: the mean margin's sign, ties a half (S4.1).

    Args:
        reference: the reference's errors on them, [2, draws, pairs] float32.
    """

    def errors(batch: Batch) -> torch.Tensor:
        return forward.pair_errors(trainer.backbone, trainer.policy, batch, trainer.config.autocast)

    policy = reward.held_out_errors(pairs, trainer.backbone, errors, trainer.rank.device)
    sums = objectives.margins(policy, reference).double().sum(0)
    if trainer.rank.world_size > 1:
        dist.all_reduce(sums)
    return objectives.implicit_accuracy(sums / pairs.draws).mean().item()
