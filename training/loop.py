"""The training loop: reads top to bottom, knows torch.distributed but no Ray.

A step: this rank's micro-batches of the global batch; winners and losers in one forward pass of the policy, the same of
the reference; the objective; gradients synchronised on the last micro-batch only; one check on all ranks that
everything is finite; the update. Order, draws and learning rate are functions of the step, so a resumed run needs
nothing but weights, optimizer state and the step number.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from infra import files, models
from infra.errors import UserError
from labelers import scorers
from training import checkpoint, objectives, reward
from training.backbone import StableDiffusion, check_fingerprints
from training.config import TrainConfig
from training.journal import Journal, StepRecord
from training.loader import Batch, Labelled, Share, apply_labels, prefetch, stage, step_batches
from training.result import write_result
from training.validation import GRID, Validator, make_validator, paste_grid

FINAL_DRAWS = 10  # of the final implicit accuracy, S4.1


@dataclass(frozen=True)
class Rank:
    """Where this process stands among the workers."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    on_step: Callable[[dict[str, Any]], None] = lambda _: None


def check_config(config: TrainConfig) -> None:
    """Check the settings against store and model before anything large is loaded.

    Raises:
        UserError: naming the flag that does not fit.
    """
    from pipelines import store

    if config.validation.validation_prompts:
        scorers.check(config.validation.validation_scorer, config.validation.validation_weights)
    data = config.data
    if data.global_batch % (config.workers * data.micro_batch):
        raise UserError(
            f"--global-batch {data.global_batch}: not a multiple of {config.workers} workers "
            f"x --micro-batch {data.micro_batch}"
        )
    path = files.resolve(data.store)
    manifest = store.read_manifest(path)
    store.verify(path, manifest)
    folder = models.local_folder(config.model, config.revision)
    check_fingerprints(dict(manifest.fingerprints), folder, path)
    table, _ = store.read_labels(path, data.labels)
    decided = sum(label in (0.0, 1.0) for label in table["label_0"].to_pylist())
    if decided < data.global_batch:
        raise UserError(
            f"--store {data.store}: {decided} labelled pairs, fewer than one --global-batch of {data.global_batch}"
        )
    if data.held_out_store:
        held_out = files.resolve(data.held_out_store)
        check_fingerprints(dict(store.read_manifest(held_out).fingerprints), folder, held_out)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the rate of a step: linear warm-up, then constant."""
    warmup = config.optimizer.warmup_steps
    return config.optimizer.learning_rate * min(1.0, (step + 1) / warmup if warmup else 1.0)


@dataclass
class Trainer:
    """Everything one rank holds while it trains."""

    config: TrainConfig
    rank: Rank
    output: Path
    backbone: StableDiffusion
    data: Labelled
    policy: torch.nn.Module
    reference: torch.nn.Module
    optimizer: torch.optim.AdamW
    validator: Validator | None
    held_out: reward.HeldOut | None
    journal: Journal

    @property
    def autocast(self) -> torch.dtype:
        """Return the dtype of forward passes."""
        return getattr(torch, self.config.precision)


def train(config: TrainConfig, rank: Rank) -> None:
    """Train from the last complete checkpoint, or from the start, to the end, and write the result."""
    trainer = build(config, rank)
    step = resume(trainer)
    wrapped = trainer.policy
    if rank.world_size > 1:
        wrapped = DistributedDataParallel(trainer.policy, gradient_as_bucket_view=True)
    if step == 0:
        assess(trainer, 0)
    batches = prefetch(range(step, config.steps), partial(_step_batches, trainer))
    while step < config.steps:
        started = time.perf_counter()
        micro_batches = next(batches)
        waited = time.perf_counter() - started
        record = take_step(trainer, wrapped, micro_batches, step)
        step += 1
        trainer.journal.step(record.finish(time.perf_counter() - started, waited, config.data.global_batch))
        rank.on_step({"step": step, "loss": record.values["loss"]})
        if step % config.checkpoint_every == 0 or step == config.steps:
            _save(trainer, step)
            assess(trainer, step)
    finish(trainer)


def _step_batches(trainer: Trainer, step: int) -> list[Batch]:
    config, data = trainer.config, trainer.config.data
    share = Share(data.global_batch, data.micro_batch, trainer.rank.rank, trainer.rank.world_size)
    return step_batches(trainer.data, step, share, config.seed, trainer.backbone.timesteps, data.caption_dropout)


def build(config: TrainConfig, rank: Rank) -> Trainer:
    """Load data and models onto this rank's device."""
    torch.manual_seed(config.seed)  # nothing below should need it; draws have generators of their own
    folder, output = models.local_folder(config.model, config.revision), Path(files.resolve(config.output))
    backbone = StableDiffusion(folder)
    path = files.resolve(config.data.store)
    data = apply_labels(stage(path, config.data.cache), path, config.data.labels)
    policy, reference = backbone.load_network().to(rank.device), backbone.load_network().to(rank.device)
    reference.requires_grad_(False)
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        policy.parameters(),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.weight_decay,
        fused=rank.device.type == "cuda",
    )
    validator = make_validator(config.validation, folder, policy, rank.rank, rank.world_size)
    held_out = _held_out(config, rank, config.validation.held_out_draws, config.validation.held_out_pairs)
    journal = Journal(output, enabled=rank.rank == 0)
    return Trainer(config, rank, output, backbone, data, policy, reference, optimizer, validator, held_out, journal)


def _held_out(config: TrainConfig, rank: Rank, draws: int, limit: int | None) -> reward.HeldOut | None:
    if config.data.held_out_store is None:
        return None
    path = files.resolve(config.data.held_out_store)
    data = apply_labels(stage(path, config.data.cache), path, "human")
    pairs = min(limit or len(data.rows), len(data.rows))
    return reward.HeldOut(data, draws, pairs, config.data.micro_batch, rank.rank, rank.world_size)


def resume(trainer: Trainer) -> int:
    """Load the last complete checkpoint, drop what was noted after it, and return its step; 0 without one.

    Raises:
        UserError: if the checkpoint belongs to other data, seed or batch.
    """
    done = checkpoint.complete(trainer.output)
    if not done:
        trainer.journal.rewind(0)
        return 0
    state = checkpoint.read_state(done[-1])
    expected = checkpoint.State(
        step=state.step,
        seed=trainer.config.seed,
        global_batch=trainer.config.data.global_batch,
        store_hash=trainer.data.staged.manifest.content_hash,
        labels_hash=trainer.data.labels_hash,
    )
    if state != expected:
        told = "; ".join(
            f"{k} was {v}, now {getattr(expected, k)}" for k, v in vars(state).items() if v != getattr(expected, k)
        )
        raise UserError(f"{trainer.output} holds another run ({told}); give another --output")
    checkpoint.load(done[-1], trainer.policy, trainer.optimizer)
    trainer.journal.rewind(state.step)
    return state.step


def take_step(trainer: Trainer, wrapped: torch.nn.Module, batches: list[Batch], step: int) -> StepRecord:
    """Do one optimizer step and return what it measured.

    Raises:
        UserError: on every rank, before the update, if any loss or gradient is not finite, naming the pairs.
    """
    config = trainer.config
    rate = learning_rate(config, step)
    trainer.optimizer.param_groups[0]["lr"] = rate
    record = StepRecord(step + 1, rate, trainer.backbone.timesteps, trainer.rank.device)
    bad: list[int] = []
    share = config.data.global_batch // trainer.rank.world_size
    for index, batch in enumerate(batches):
        record.stream += batch.fingerprint(trainer.rank.rank * share + index * config.data.micro_batch)
        last = index == len(batches) - 1
        no_sync = getattr(wrapped, "no_sync", contextlib.nullcontext)
        with contextlib.nullcontext() if last else no_sync():
            moved = batch.to(trainer.rank.device)
            policy = reward.pair_errors(trainer.backbone, wrapped, moved, trainer.autocast)
            with torch.no_grad():
                reference = reward.pair_errors(trainer.backbone, trainer.reference, moved, trainer.autocast)
            losses = objectives.loss(config.objective, policy, reference)
            # DDP averages over ranks; dividing by this rank's share makes the sum the mean over the global batch.
            (losses.sum() / share).backward()
        bad += batch.pair_ids[~losses.detach().isfinite().cpu().numpy()].tolist()
        record.add(losses.detach(), policy.detach(), reference, moved.timesteps)
    norm = torch.nn.utils.clip_grad_norm_(trainer.policy.parameters(), config.optimizer.max_gradient_norm)
    _refuse_non_finite(trainer, bad, norm, batches, step)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    record.reduce(trainer.rank.world_size, norm)
    return record


def _refuse_non_finite(trainer: Trainer, bad: list[int], norm: torch.Tensor, batches: list[Batch], step: int) -> None:
    broken = torch.tensor([float(bool(bad) or not bool(norm.isfinite()))], device=trainer.rank.device)
    world = trainer.rank.world_size
    if world > 1:
        dist.all_reduce(broken, op=dist.ReduceOp.MAX)
    if not broken.item():
        return
    everyone: list[list[int]] = [bad]
    if world > 1:
        everyone = [[] for _ in range(world)]
        dist.all_gather_object(everyone, bad)
    named = sorted(pair for part in everyone for pair in part)
    what = "the loss of pairs" if named else "the gradient of the batch with pairs"
    named = named or [int(pair) for batch in batches for pair in batch.pair_ids]
    raise UserError(
        f"step {step + 1}: {what} {', '.join(map(str, named[:16]))} is not finite; nothing was updated, "
        f"the last checkpoint in {trainer.output} stands"
    )


def _save(trainer: Trainer, step: int) -> None:
    if trainer.rank.rank == 0:
        state = checkpoint.State(
            step=step,
            seed=trainer.config.seed,
            global_batch=trainer.config.data.global_batch,
            store_hash=trainer.data.staged.manifest.content_hash,
            labels_hash=trainer.data.labels_hash,
        )
        checkpoint.save(trainer.output, state, trainer.policy, trainer.optimizer)
    if trainer.rank.world_size > 1:
        dist.barrier()


def assess(trainer: Trainer, step: int) -> None:
    """Judge the policy at a checkpoint: validation images, held-out implicit accuracy; keep the best checkpoint."""
    values: dict[str, float] = {}
    if trainer.validator:
        scores, grid = trainer.validator.run()
        total = torch.from_numpy(scores)
        images = [grid]
        if trainer.rank.world_size > 1:
            dist.all_reduce(total)
            images = [[] for _ in range(trainer.rank.world_size)]
            dist.all_gather_object(images, grid)
        values |= {"validation_median": total.median().item(), "validation_mean": total.mean().item()}
        ordered = [image for _, image in sorted((pair for part in images for pair in part), key=lambda pair: pair[0])]
        trainer.journal.picture(step, paste_grid(ordered[:GRID]))
    if trainer.held_out:
        values["held_out_accuracy"] = held_out_accuracy(trainer, trainer.held_out)
    trainer.journal.assessment(step, values)
    if trainer.rank.rank == 0 and step > 0:
        checkpoint.sweep(trainer.output, trainer.config.keep_checkpoints, trainer.journal.best_step())
    if trainer.rank.world_size > 1:
        dist.barrier()


def held_out_accuracy(trainer: Trainer, held_out: reward.HeldOut) -> float:
    """Compute the implicit accuracy on held-out pairs over all ranks: the mean margin's sign, ties a half."""
    sums = reward.margin_sums(
        trainer.backbone, trainer.policy, trainer.reference, held_out, trainer.autocast, trainer.rank.device
    )
    if trainer.rank.world_size > 1:
        dist.all_reduce(sums)
    return objectives.implicit_accuracy(sums / held_out.draws).mean().item()


def finish(trainer: Trainer) -> None:
    """Load the best checkpoint, measure it on all held-out pairs, and write the result."""
    best = trainer.journal.best_step_everywhere(trainer.rank.world_size) or trainer.config.steps
    checkpoint.load(checkpoint.folder_of(trainer.output, best), trainer.policy, trainer.optimizer)
    facts: dict[str, Any] = {"best_step": best}
    held_out = _held_out(trainer.config, trainer.rank, FINAL_DRAWS, None)
    if held_out:
        facts["implicit_reward"] = {
            "accuracy": held_out_accuracy(trainer, held_out),
            "n": held_out.pairs,
            "draws": FINAL_DRAWS,
        }
    if trainer.rank.rank == 0:
        facts["train"] = trainer.journal.summary()
        write_result(trainer.config, trainer.output, trainer.backbone, trainer.policy, facts, trainer.data)
    if trainer.rank.world_size > 1:
        dist.barrier()
