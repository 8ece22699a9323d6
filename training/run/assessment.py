"""How the policy is judged at a checkpoint: validation images and their scores, and held-out implicit accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from infra.base import files
from training.checkpoints.run_folder import ASSESSMENTS, SAMPLE, STEPS, VALIDATION
from training.data import hold_out
from training.data.applied_labels import apply_labels
from training.data.opened import open_store
from training.method import forward, objectives
from training.method.batch import Batch
from training.run import reward, watchdog
from training.run.grid import GRID, Placed, paste_grid
from training.settings.config import TrainConfig

if TYPE_CHECKING:
    from training.run.assembly import Rank, Trainer


def agree(value: Any, rank: Rank) -> Any:
    """Return rank 0's value on every rank."""
    shared = [value]
    if rank.world_size > 1:
        dist.broadcast_object_list(shared, src=0)
    return shared[0]


def assess(trainer: Trainer, step: int) -> None:
    """Judge the policy after a step and note its figures."""
    values: dict[str, float] = {}
    with trainer.judged(), trainer.gathered():  # in this order: the average takes the place of the shards
        if trainer.validator:
            values |= validate(trainer, step)
        if trainer.held_out:
            reference_errors = trainer.held_out_reference_errors
            assert reference_errors is not None
            values["held_out_accuracy"] = held_out_accuracy(trainer, trainer.held_out, reference_errors)
            values["held_out_pairs"] = trainer.held_out.pairs
    if trainer.rank.rank == 0:
        values |= watchdog.since(trainer.journal.rows(STEPS), trainer.journal.rows(ASSESSMENTS), step)
    trainer.journal.assessment(step, values)
    if trainer.rank.world_size > 1:
        dist.barrier()


def validate(trainer: Trainer, step: int) -> dict[str, float]:
    """Draw and judge the validation images over all ranks; keep a grid of the first (Sec. 5.1)."""
    assert trainer.validator is not None
    scores, grid = trainer.validator.run()
    total = torch.from_numpy(scores).to(trainer.rank.device)
    if trainer.rank.world_size > 1:
        dist.all_reduce(total)
    trainer.journal.picture(step, _gathered(grid, trainer.rank), VALIDATION)
    of_all = total.cpu().numpy()
    return {"validation_median": float(np.median(of_all)), "validation_mean": float(of_all.mean())}


def sample(trainer: Trainer, step: int) -> None:
    """Draw --sample-prompts over all ranks with the policy after a step, and keep the grid."""
    assert trainer.sampler is not None
    with trainer.judged(), trainer.gathered():
        grid = trainer.sampler.grid()
    trainer.journal.picture(step, _gathered(grid, trainer.rank), SAMPLE)


def _gathered(grid: list[Placed], rank: Rank) -> Image.Image:
    """Paste all ranks' images into one, in the order of their captions."""
    parts = [grid]
    if rank.world_size > 1:
        parts = [[] for _ in range(rank.world_size)]
        dist.all_gather_object(parts, grid)
    ordered = [image for _, image in sorted((pair for part in parts for pair in part), key=lambda pair: pair[0])]
    return paste_grid(ordered[:GRID])


def held_out(config: TrainConfig, rank: Rank, repeats: int, limit: int | None) -> reward.HeldOut | None:
    """Open this rank's share of the held-out pairs, by people's labels; None where no pairs are held out.

    Args:
        repeats: how often each pair is seen, each time at another draw.
        limit: take only the first so many pairs; None takes all.
    """
    if config.data.held_out_store is None and not config.data.hold_out:
        return None
    path = files.resolve(config.data.held_out_store or config.data.store)
    data = apply_labels(open_store(path, config.data.cache), path, "human")
    if config.data.hold_out:
        data = hold_out.split(data, config.data.hold_out)[1]
    pairs = min(limit or len(data.rows), len(data.rows))
    return reward.HeldOut(
        data=data,
        repeats=repeats,
        pairs=pairs,
        batch_size=config.data.micro_batch,
        rank=rank.rank,
        world_size=rank.world_size,
    )


def held_out_accuracy(trainer: Trainer, pairs: reward.HeldOut, reference_errors: torch.Tensor) -> float:
    """Compute the implicit accuracy on held-out pairs over all ranks: the mean margin's sign, ties a half (S4.1).

    Args:
        reference_errors: the reference's errors on this rank's pairs, [2, repeats, pairs] float32.

    Returns:
        From 0 to 1.
    """

    def errors(batch: Batch) -> torch.Tensor:
        return forward.pair_errors(trainer.backbone, trainer.policy, batch, trainer.config.autocast)

    policy_errors = reward.held_out_errors(pairs, trainer.backbone, errors, trainer.rank.device)
    sums = objectives.margins(policy_errors, reference_errors).double().sum(0)
    if trainer.rank.world_size > 1:
        dist.all_reduce(sums)
    return objectives.implicit_accuracy(sums / pairs.repeats).mean().item()
