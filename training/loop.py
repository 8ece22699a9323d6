"""The training loop: reads top to bottom, knows torch.distributed but no Ray.

A step: this rank's micro-batches of the global batch; winners and losers in one forward pass of the policy, the same of
the reference; the objective; gradients synchronised on the last micro-batch only; one check on all ranks that
everything is finite; the update. Order, draws and learning rate are functions of the step, so a resumed run needs
nothing but weights, optimizer state and the step number.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from infra import files
from infra.errors import UserError
from training import checkpoint, objectives, reward, sharded_checkpoint, sharding, stopping
from training.assessment import agree, assess, held_out, held_out_accuracy
from training.backbone import Backbone, open_backbone
from training.checkpoint_writer import CheckpointWriter
from training.config import TrainConfig
from training.journal import Journal, StepRecord
from training.loader import Batch, Labelled, Share, apply_labels, prefetch, step_batches
from training.optimizers import learning_rate, make_optimizer
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


@dataclass
class Trainer:
    """Everything one rank holds while it trains."""

    config: TrainConfig
    rank: Rank
    output: Path
    backbone: Backbone
    data: Labelled
    policy: torch.nn.Module
    reference: reward.Reference
    optimizer: torch.optim.AdamW
    validator: Validator | None
    held_out: reward.HeldOut | None
    journal: Journal
    writer: CheckpointWriter

    @property
    def autocast(self) -> torch.dtype:
        """Return the dtype of forward passes."""
        return self.config.autocast

    def gathered(self) -> contextlib.AbstractContextManager[None]:
        """Hold sharded networks whole for a while, without backward passes."""
        frozen = [self.reference.network] if isinstance(self.reference, reward.NetworkReference) else []
        return sharding.gathered([self.policy, *frozen])


def train(config: TrainConfig, rank: Rank) -> None:
    """Train from the last complete checkpoint, or from the start, to the end, and write the result.

    Raises:
        Stopped: on every rank, after a checkpoint, if a SIGTERM asked any of them to end.
    """
    with stopping.listening():
        trainer = build(config, rank)
        with contextlib.closing(trainer.writer):
            run_steps(trainer)
            finish(trainer)


def run_steps(trainer: Trainer) -> None:
    """Take the steps that are left."""
    config, rank = trainer.config, trainer.rank
    step = resume(trainer)
    wrapped = sharding.replicate(trainer.policy, rank.world_size)
    if is_due(config, step) and not agree(trainer.journal.is_assessed(step), rank):  # killed between the two
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
        trainer.writer.check()
        stopped = stopping.agreed(trainer.output, rank.rank, rank.world_size, rank.device)
        if stopped or is_due(config, step):
            save(trainer, step)
        if stopped:
            trainer.writer.wait()
            if rank.world_size > 1:
                dist.barrier()  # the first rank that ends may take the others with it, rank 0 in the middle of writing
            raise stopping.Stopped(step)
        if is_due(config, step):
            assess(trainer, step)


def is_due(config: TrainConfig, step: int) -> bool:
    """Say whether the policy after a step is judged; it is kept then, too."""
    return step % config.checkpoint_every == 0 or step == config.steps


def step_shares(trainer: Trainer, steps: range) -> Iterator[list[Batch]]:
    """Yield this rank's micro-batches of each step, made ahead where a GPU computes meanwhile.

    On a CPU a thread that makes them takes turns with the step it feeds: 14 ms of a step of 323 ms, against 5 in line.
    """
    make = partial(step_share, trainer)
    return prefetch(steps, make) if trainer.rank.device.type == "cuda" else map(make, steps)


def step_share(trainer: Trainer, step: int) -> list[Batch]:
    """Assemble this rank's micro-batches of a step."""
    config = trainer.config
    dropout = config.data.caption_dropout
    return step_batches(trainer.data, step, rank_share(trainer), config.seed, trainer.backbone.timestep, dropout)


def rank_share(trainer: Trainer) -> Share:
    """Say which part of every global batch this rank takes."""
    data, rank = trainer.config.data, trainer.rank
    return Share(data.global_batch, data.micro_batch, rank.rank, rank.world_size)


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees: else it hands activations back and takes them anew, page by page, every step.

    Measured on two cores: 123 pairs/s instead of 110, and for a bare PyTorch step 124 instead of 118.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for parameter, size in ((-1, 2_000_000_000), (-2, 64 << 20), (-3, 32 << 20)):  # trim, top pad, mmap threshold
            library.mallopt(parameter, size)


def build(config: TrainConfig, rank: Rank) -> Trainer:
    """Load data and models onto this rank's device."""
    if rank.device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.seed)  # nothing below should need it; draws have generators of their own
    folder, output = config.start.folder(), Path(files.resolve(config.output))
    backbone = open_backbone(folder)
    path = files.resolve(config.data.store)
    data = apply_labels(stage(path, config.data.cache), path, config.data.labels)
    policy = backbone.load_network().to(rank.device)
    sharding.prepare(config.sharding, policy, config.autocast, rank.device, rank.world_size)
    reference = make_reference(config, rank)
    optimizer = make_optimizer(config.optimizer, policy.parameters(), rank.device)
    validator = make_validator(config.validation, folder, policy, rank.rank, rank.world_size)
    few = held_out(config, rank, config.validation.held_out_draws, config.validation.held_out_pairs)
    journal, writer = Journal(output, enabled=rank.rank == 0), CheckpointWriter(output, rank.world_size)
    return Trainer(config, rank, output, backbone, data, policy, reference, optimizer, validator, few, journal, writer)


def make_reference(config: TrainConfig, rank: Rank) -> reward.Reference:
    """Load the frozen reference, laid out as the policy is."""
    backbone = open_backbone(config.reference.folder())
    network = backbone.load_network().to(rank.device).requires_grad_(False)
    sharding.prepare(config.sharding, network, config.autocast, rank.device, rank.world_size)
    return reward.NetworkReference(backbone, network, config.autocast)


def resume(trainer: Trainer) -> int:
    """Load the last complete checkpoint, drop what was noted after it, and return its step; 0 without one.

    Raises:
        UserError: if the checkpoint belongs to other data, seed or batch.
    """
    done = agree(checkpoint.complete(trainer.output), trainer.rank)  # a shared disk may show ranks different things
    if not done:
        trainer.journal.rewind(0)
        return 0
    state = agree(checkpoint.read_state(done[-1]) if trainer.rank.rank == 0 else None, trainer.rank)
    expected = run_state(trainer, state.step)
    if state != expected:
        told = "; ".join(
            f"{k} was {v}, now {getattr(expected, k)}" for k, v in vars(state).items() if v != getattr(expected, k)
        )
        raise UserError(f"{trainer.output} holds another run ({told}); give another --output")
    parameters = dict(trainer.policy.named_parameters())
    trainer.policy.load_state_dict(sharded_checkpoint.load(done[-1], "network", parameters))
    moments = sharded_checkpoint.load(done[-1], "optimizer", parameters)
    checkpoint.put_optimizer(moments, trainer.policy, trainer.optimizer)
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
    rate = learning_rate(config.optimizer, step)
    trainer.optimizer.param_groups[0]["lr"] = rate
    record = StepRecord(step + 1, rate, trainer.backbone.timesteps, trainer.rank.device)
    bad: list[int] = []
    share = config.data.global_batch / trainer.rank.world_size  # not whole with some elastic world sizes
    for piece, batch in zip(rank_share(trainer).pieces, batches, strict=True):
        record.stream += batch.fingerprint(piece.start)
        with sharding.synchronised(wrapped, last=batch is batches[-1]):
            moved = batch.to(trainer.rank.device)
            policy = reward.pair_errors(trainer.backbone, wrapped, moved, trainer.autocast)
            reference = trainer.reference.errors(moved) if config.objective.needs_reference else None
            losses = objectives.loss(config.objective, policy, reference)
            # Gradients are averaged over ranks; divided by the mean share, they add up to the global batch's mean.
            (losses.sum() / share).backward()
        bad += batch.pair_ids[~losses.detach().isfinite().cpu().numpy()].tolist()
        record.add(losses.detach(), policy.detach(), reference, moved.timesteps)
    parameters = trainer.policy.parameters()
    norm = sharding.whole(torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.max_gradient_norm))
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


def save(trainer: Trainer, step: int) -> None:
    """Copy weights and optimizer state, and write them while training goes on.

    What is no longer needed goes first, when every checkpoint is complete and the last one judged: a kill before the
    new one is complete then finds all that the notes up to the last one name.
    """
    trainer.writer.wait()
    first, sharded = trainer.rank.rank == 0, sharding.is_sharded(trainer.policy)
    if first:
        sweep(trainer)
    if first or sharded:
        kept = trainer.output, run_state(trainer, step), checkpoint.copied(snapshot(trainer))
        write = partial(sharded_checkpoint.save, workers=trainer.writer.workers) if sharded else checkpoint.save
        trainer.writer.submit(partial(write, *kept))


def snapshot(trainer: Trainer) -> checkpoint.Groups:
    """Return what a checkpoint keeps, by group: weights and optimizer state."""
    moments = checkpoint.optimizer_tensors(trainer.policy, trainer.optimizer)
    return {"network": trainer.policy.state_dict(), "optimizer": moments}


def sweep(trainer: Trainer) -> None:
    """Keep the best and the latest checkpoints."""
    checkpoint.sweep(trainer.output, trainer.config.keep_checkpoints, trainer.journal.best_step())


def finish(trainer: Trainer) -> None:
    """Load the best checkpoint, measure it on all held-out pairs, and write the result."""
    trainer.writer.wait()
    if trainer.rank.rank == 0:
        sweep(trainer)
    best = agree(trainer.journal.best_step(), trainer.rank) or trainer.config.steps
    parameters = dict(trainer.policy.named_parameters())
    folder = checkpoint.folder_of(trainer.output, best)
    trainer.policy.load_state_dict(sharded_checkpoint.load(folder, "network", parameters))
    facts: dict[str, Any] = {"best_step": best}
    if every := held_out(trainer.config, trainer.rank, FINAL_DRAWS, None):
        with trainer.gathered():
            accuracy = held_out_accuracy(trainer, every)
        facts["implicit_reward"] = {"accuracy": accuracy, "n": every.pairs, "draws": FINAL_DRAWS}
    state = sharding.whole_state(trainer.policy) if sharding.is_sharded(trainer.policy) else None
    if trainer.rank.rank == 0:
        policy = trainer.policy
        if state is not None:
            policy = trainer.backbone.load_network()
            policy.load_state_dict(state)
        facts["train"] = trainer.journal.summary()
        write_result(trainer.config, trainer.output, trainer.backbone, policy, facts, trainer.data)
    trainer.writer.close()
    trainer.journal.close()
    if trainer.rank.world_size > 1:
        dist.barrier()
