"""The training loop: reads top to bottom, knows torch.distributed but no Ray.

A step: this rank's micro-batches of the global batch; winners and losers in one forward pass of the policy, the same of
the reference; the objective; gradients synchronised on the last micro-batch only; one check on all ranks that
everything is finite; the update. Order, draws and learning rate are functions of the step, so a resumed run needs
nothing but weights, optimizer state and the step number.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from infra import cpu, files
from infra.errors import UserError
from training import checkpoint, objectives, reward
from training.assessment import agree, assess, held_out, held_out_accuracy
from training.backbone import StableDiffusion
from training.config import TrainConfig
from training.journal import Journal, StepRecord
from training.loader import Batch, Labelled, Share, apply_labels, prefetch, step_batches
from training.result import write_result
from training.staging import stage
from training.validation import Validator, make_validator

FINAL_DRAWS = 10  # of the final implicit accuracy, S4.1


@dataclass(frozen=True)
class Rank:
    """Where this process stands among the workers."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    on_step: Callable[[dict[str, Any]], None] = lambda _: None


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
    if not agree(trainer.journal.is_assessed(step), rank):  # a kill may fall between a checkpoint and its assessment
        assess(trainer, step)
    batches = step_shares(trainer, range(step, config.steps))
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


def step_shares(trainer: Trainer, steps: range) -> Iterator[list[Batch]]:
    """Yield this rank's micro-batches of each step, made ahead where a GPU computes meanwhile.

    On a CPU a thread that makes them takes turns with the step it feeds: 14 ms of a step of 323 ms, against 5 in line.
    """
    make = partial(step_share, trainer)
    return prefetch(steps, make) if trainer.rank.device.type == "cuda" else map(make, steps)


def step_share(trainer: Trainer, step: int) -> list[Batch]:
    """Assemble this rank's micro-batches of a step."""
    config, data = trainer.config, trainer.config.data
    share = Share(data.global_batch, data.micro_batch, trainer.rank.rank, trainer.rank.world_size)
    return step_batches(trainer.data, step, share, config.seed, trainer.backbone.timesteps, data.caption_dropout)


def build(config: TrainConfig, rank: Rank) -> Trainer:
    """Load data and models onto this rank's device."""
    if rank.device.type == "cpu":
        cpu.keep_freed_memory()
    torch.manual_seed(config.seed)  # nothing below should need it; draws have generators of their own
    folder, output = config.start.folder(), Path(files.resolve(config.output))
    backbone = StableDiffusion(folder)
    path = files.resolve(config.data.store)
    data = apply_labels(stage(path, config.data.cache), path, config.data.labels)
    policy = backbone.load_network().to(rank.device)
    reference = StableDiffusion(config.reference.folder()).load_network().to(rank.device)
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
    few = held_out(config, rank, config.validation.held_out_draws, config.validation.held_out_pairs)
    journal = Journal(output, enabled=rank.rank == 0)
    return Trainer(config, rank, output, backbone, data, policy, reference, optimizer, validator, few, journal)


def resume(trainer: Trainer) -> int:
    """Load the last complete checkpoint, drop what was noted after it, and return its step; 0 without one.

    Raises:
        UserError: if the checkpoint belongs to other data, seed or batch.
    """
    done = agree(checkpoint.complete(trainer.output), trainer.rank)  # a shared disk may show ranks different things
    if not done:
        trainer.journal.rewind(0)
        return 0
    state = checkpoint.read_state(done[-1])
    expected = run_state(trainer, state.step)
    if state != expected:
        told = "; ".join(
            f"{k} was {v}, now {getattr(expected, k)}" for k, v in vars(state).items() if v != getattr(expected, k)
        )
        raise UserError(f"{trainer.output} holds another run ({told}); give another --output")
    checkpoint.load_network(done[-1], trainer.policy)
    checkpoint.load_optimizer(done[-1], trainer.policy, trainer.optimizer)
    trainer.journal.rewind(state.step)
    return state.step


def run_state(trainer: Trainer, step: int) -> checkpoint.State:
    """Describe the run after a step: all that order and draws depend on."""
    return checkpoint.State(
        step=step,
        seed=trainer.config.seed,
        global_batch=trainer.config.data.global_batch,
        store_hash=trainer.data.staged.manifest.content_hash,
        labels_hash=trainer.data.labels_hash,
    )


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
            reference = None
            if config.objective.needs_reference:
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
    mine = (bad, [int(pair) for batch in batches for pair in batch.pair_ids])
    everyone = [mine]
    if world > 1:
        everyone = [([], [])] * world
        dist.all_gather_object(everyone, mine)
    named = sorted(pair for spoilt, _ in everyone for pair in spoilt)
    what = "the loss of pairs" if named else "the gradient of the batch of pairs"
    named = named or sorted(pair for _, all_pairs in everyone for pair in all_pairs)
    raise UserError(
        f"step {step + 1}: {what} {', '.join(map(str, named))} is not finite; nothing was updated, "
        f"the last checkpoint in {trainer.output} stands"
    )


def _save(trainer: Trainer, step: int) -> None:
    if trainer.rank.rank == 0:
        checkpoint.save(trainer.output, run_state(trainer, step), trainer.policy, trainer.optimizer)
    if trainer.rank.world_size > 1:
        dist.barrier()


def finish(trainer: Trainer) -> None:
    """Load the best checkpoint, measure it on all held-out pairs, and write the result."""
    best = agree(trainer.journal.best_step(), trainer.rank) or trainer.config.steps
    checkpoint.load_network(checkpoint.folder_of(trainer.output, best), trainer.policy)
    facts: dict[str, Any] = {"best_step": best}
    if every := held_out(trainer.config, trainer.rank, FINAL_DRAWS, None):
        accuracy = held_out_accuracy(trainer, every)
        facts["implicit_reward"] = {"accuracy": accuracy, "n": every.pairs, "draws": FINAL_DRAWS}
    if trainer.rank.rank == 0:
        facts["train"] = trainer.journal.summary()
        write_result(trainer.config, trainer.output, trainer.backbone, trainer.policy, facts, trainer.data)
    trainer.journal.close()
    if trainer.rank.world_size > 1:
        dist.barrier()
