"""The training loop: reads top to bottom, knows torch.distributed but no Ray.

A step, in take_step: this rank's micro-batches of the global batch, each through policy, reference and objective
(training/method/forward.py, then objectives.py); backward passes, their gradients averaged over the ranks on the last
micro-batch only; one check on all ranks that everything is finite; the update; the record. Order, draws and learning
rate are functions of the step, so a resumed run needs nothing but weights, optimizer state and the step number.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from infra.base import files, logs, termination
from infra.base.errors import UserError
from training.checkpoints import checkpoint, sharded_checkpoint
from training.checkpoints.run_folder import ASSESSMENTS, PAGE, SAMPLE
from training.data.loader import Share, begin_step, pieces_of_step, prefetch, read_ahead, steps_ahead
from training.layout import sharding
from training.method import forward
from training.method.batch import Batch
from training.method.draws import REWARD_DRAWS
from training.method.forward import MeasuredBatch, PairLosses
from training.method.optimizer_config import learning_rate
from training.method.policy import load_weights, make_policy, trained
from training.run import assembly, keeping, reward, stopping, watchdog
from training.run.assembly import Rank, Trainer
from training.run.assessment import agree, assess, held_out, held_out_accuracy, sample
from training.run.reference_check import meet_reference
from training.run.result import write_result
from training.run.step_record import StepRecord
from training.settings.config import TrainConfig


def train(config: TrainConfig, rank: Rank) -> None:
    """Train from the last complete checkpoint, or from the start, to the end, and write the result.

    Raises:
        Stopped: on every rank, after a checkpoint, if a SIGTERM asked any of them to end.
    """
    with termination.listening():
        trainer = assembly.build(config, rank)
        looking = stopping.looking(files.resolve(config.output)) if rank.rank == 0 else contextlib.nullcontext()
        with contextlib.closing(trainer.writer), looking:
            finish(trainer, run_steps(trainer))


def run_steps(trainer: Trainer) -> int:
    """Take the steps that are left, or those until --stop-when; return how many the run then has."""
    config = trainer.config
    rank = trainer.rank
    step = keeping.resume(trainer)
    meet_reference(trainer, step, partial(step_share, trainer))
    keeping.begin_from(trainer, step)
    wrapped = sharding.replicate(trainer.policy, rank.world_size)
    if is_due(config, step) and not agree(trainer.journal.is_assessed(step), rank):  # killed after the checkpoint
        assess(trainer, step)
    if is_sampled(trainer, step) and not agree(trainer.journal.is_pictured(step, SAMPLE), rank):
        sample(trainer, step)
    batches = step_shares(trainer, range(step, config.steps))
    leaving: tuple[str, ...] = ()
    while step < config.steps and reason_to_stop(trainer, step) is None:
        started = time.perf_counter()
        micro_batches = next(batches)
        waited = time.perf_counter() - started
        record = take_step(trainer, wrapped, micro_batches, step)
        step += 1
        note = record.finish(time.perf_counter() - started, waited, config.data.global_batch)
        trainer.journal.step(note)
        rank.on_step(note)
        trainer.writer.check()
        stopped = stopping.agreed(files.resolve(config.output), rank.rank, rank.world_size, rank.device)
        known = leaving
        leaving = rank.leaving()
        # A node named for the first time would take the steps since the last checkpoint with it; training goes on.
        if stopped or is_due(config, step) or not set(leaving) <= set(known):
            keeping.save(trainer, step)
        if stopped:
            trainer.writer.wait()
            if rank.world_size > 1:
                dist.barrier()  # a rank that ends first may take rank 0 with it, in the middle of writing
            termination.answer()
            raise stopping.Stopped(step)
        look(trainer, step)
    return step


def reason_to_stop(trainer: Trainer, step: int) -> str | None:
    """Say, alike on every rank, why --stop-when ends the run after a step; None where it goes on."""
    config = trainer.config
    if config.stop_when is None or not is_due(config, step):
        return None
    reason = None
    if trainer.rank.rank == 0:
        reason = watchdog.reason_to_stop(trainer.journal.rows(ASSESSMENTS), config.stop_when, config.stop_checks)
    return agree(reason, trainer.rank)


def look(trainer: Trainer, step: int) -> None:
    """Draw and judge what is due after a step, and let it be seen."""
    sampled = is_sampled(trainer, step)
    due = is_due(trainer.config, step)
    if sampled:
        sample(trainer, step)
    if due:
        assess(trainer, step)
    if trainer.rank.rank == 0 and (sampled or due) and step < trainer.config.steps:  # finish does so at the end
        show(trainer)


def show(trainer: Trainer) -> None:
    """Let the run be seen as it stands; where that fails, the run says so and goes on: its page is no part of it."""
    try:
        trainer.rank.on_more_to_see(trainer.config, trainer.output, len(trainer.data.rows))
    except Exception as error:
        why = next(iter(str(error).splitlines()), "no reason given")
        place = trainer.output / PAGE
        logs.LOGGER.warning(f"{place}: could not be written ({type(error).__name__}: {why}); training goes on")
        logs.LOGGER.debug("the page's traceback", exc_info=error)


def is_sampled(trainer: Trainer, step: int) -> bool:
    """Say whether --sample-prompts are drawn after a step: at the start, every so many steps, and at the end."""
    every = trainer.config.validation.sample_every or trainer.config.checkpoint_every
    return trainer.sampler is not None and (step % every == 0 or step == trainer.config.steps)


def is_due(config: TrainConfig, step: int) -> bool:
    """Say whether the policy after a step is judged; it is kept then, too."""
    return step % config.checkpoint_every == 0 or step == config.steps


def step_shares(trainer: Trainer, steps: range) -> Iterator[list[Batch]]:
    """Yield this rank's micro-batches of each step, made ahead where a GPU computes meanwhile.

    On a CPU a thread that makes them takes turns with the step it feeds: 14 ms of a step of 323 ms, against 5 in line.
    """
    made = read_ahead(steps, partial(begin_share, trainer), steps_ahead(trainer.data, rank_share(trainer)))
    return prefetch(made) if trainer.rank.device.type == "cuda" else made


def step_share(trainer: Trainer, step: int) -> list[Batch]:
    """Assemble this rank's micro-batches of a step."""
    return begin_share(trainer, step)()


def begin_share(trainer: Trainer, step: int) -> Callable[[], list[Batch]]:
    """Begin to read this rank's micro-batches of a step; what is returned waits for them."""
    config = trainer.config
    dropout = config.data.caption_dropout
    return begin_step(trainer.data, step, rank_share(trainer), config.seed, trainer.backbone.timestep, dropout)


def rank_share(trainer: Trainer) -> Share:
    """Say which part of every global batch this rank takes."""
    data = trainer.config.data
    return Share(data.global_batch, data.micro_batch, trainer.rank.rank, trainer.rank.world_size)


def take_step(trainer: Trainer, wrapped: torch.nn.Module, batches: list[Batch], step: int) -> StepRecord:
    """Do one optimizer step and return what it measured.

    Args:
        wrapped: the policy, as sharding.replicate returns it.
        batches: this rank's micro-batches of the step.
        step: steps taken before this one.

    Raises:
        UserError: on every rank, before the update, if any loss or gradient is not finite, naming the pairs.
    """
    config = trainer.config
    pair_losses = PairLosses(
        objective=config.objective,
        backbone=trainer.backbone,
        policy=wrapped,
        reference=trainer.reference,
        autocast=config.autocast,
        device=trainer.rank.device,
        world_size=trainer.rank.world_size,
    )
    share = config.data.global_batch / trainer.rank.world_size  # not whole with some elastic world sizes
    measured = []
    for part in pair_losses.of_step(batches):
        # Gradients are averaged over ranks; divided by the mean share, they add up to the global batch's mean.
        (part.losses.sum() / share).backward()
        measured.append(replace(part, losses=part.losses.detach()))
    parameters = trainer.policy.parameters()
    norm = sharding.whole(torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.max_gradient_norm))
    _refuse_non_finite(trainer, batches, measured, norm, step)
    rate = learning_rate(config.optimizer, step)
    trainer.optimizer.param_groups[0]["lr"] = rate
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    if trainer.average:
        trainer.average.update()
    record = StepRecord(step + 1, rate, trainer.backbone.timesteps, trainer.rank.device)
    pieces = pieces_of_step(trainer.data, step, rank_share(trainer), config.seed)
    for positions, batch, part in zip(pieces, batches, measured, strict=True):
        record.add(part, batch.fingerprint(positions.start))
    record.reduce(trainer.rank.world_size, norm)
    return record


def _refuse_non_finite(
    trainer: Trainer, batches: list[Batch], measured: list[MeasuredBatch], norm: torch.Tensor, step: int
) -> None:
    """Refuse a step, alike on every rank, if a loss or the gradient of any of them is not finite."""
    bad: list[int] = []
    base_is_broken = True
    for batch, part in zip(batches, measured, strict=True):
        bad += batch.pair_ids[~part.losses.isfinite().cpu().numpy()].tolist()
        own = [part.reference_errors, part.policy_errors if step == 0 else None]  # at first the policy is its base
        base_is_broken &= any(errors is not None and not bool(errors.isfinite().any()) for errors in own)
    world = trainer.rank.world_size
    found = [float(bool(bad) or not bool(norm.isfinite())), float(not base_is_broken)]
    broken = torch.tensor(found, device=trainer.rank.device)
    if world > 1:
        dist.all_reduce(broken, op=dist.ReduceOp.MAX)
    if not broken[0].item():
        return
    if not broken[1].item():
        raise UserError(
            f"step {step + 1}: --model's or the reference's own prediction is not finite, whatever the pairs; try "
            f"--precision float32, or look for broken weights in {trainer.config.model}; nothing was updated"
        )
    mine = (bad, [int(pair) for batch in batches for pair in batch.pair_ids])  # a gradient is that of all pairs
    everyone = [mine]
    if world > 1:
        everyone = [([], [])] * world
        dist.all_gather_object(everyone, mine)
    named = sorted(pair for bad_pairs, _ in everyone for pair in bad_pairs)
    what = "the loss of pairs" if named else "the gradient of the batch of pairs"
    named = named or sorted(pair for _, all_pairs in everyone for pair in all_pairs)
    raise UserError(
        f"step {step + 1}: {what} {', '.join(map(str, named))} is not finite; nothing was updated, "
        f"the last checkpoint in {trainer.writer.output} stands"
    )


def finish(trainer: Trainer, steps: int) -> None:
    """Load the best checkpoint, measure it on all held-out pairs, and write the result.

    Args:
        steps: how many the run has taken.
    """
    stopped = reason_to_stop(trainer, steps) if steps < trainer.config.steps else None
    trainer.writer.wait()
    best = agree(keeping.sweep(trainer) if trainer.rank.rank == 0 else None, trainer.rank) or steps
    if trainer.mirror:
        trainer.mirror.bring(best)
    kept = "ema" if trainer.average else "network"
    weights = trained(trainer.policy)
    folder = checkpoint.folder_of(trainer.output, best)
    agree(checkpoint.read_state(folder) if trainer.rank.rank == 0 else None, trainer.rank)  # refused where damaged
    load_weights(trainer.policy, sharded_checkpoint.load(folder, kept, weights))
    facts = {"best_step": best, **final_accuracy(trainer)}
    state = sharding.whole_trained_state(trainer.policy) if sharding.is_sharded(trainer.policy) else None
    if trainer.rank.rank == 0:
        policy = trainer.policy
        if state is not None:
            policy = make_policy(trainer.config.policy, trainer.backbone, trainer.config.seed)
            load_weights(policy, {name: state[name] for name in trained(policy)})
        facts["train"] = trainer.journal.summary(steps)
        if stopped is not None:
            facts["stopped"] = f"stopped after step {steps:,}: {stopped}; the result is the checkpoint of step {best:,}"
            print(facts["stopped"], flush=True)
        write_result(trainer.config, trainer.output, trainer.backbone, policy, facts, trainer.data)
        show(trainer)
    trainer.journal.close()
    if trainer.mirror and trainer.rank.rank == 0:
        trainer.mirror.finish(trainer.config.keep_checkpoints, best)
    if trainer.rank.world_size > 1:
        dist.barrier()
    if trainer.mirror:
        trainer.mirror.forget()


def final_accuracy(trainer: Trainer) -> dict[str, Any]:
    """Measure the policy's implicit accuracy on all held-out pairs, REWARD_DRAWS draws each; nothing without such."""
    pairs = held_out(trainer.config, trainer.rank, REWARD_DRAWS, None)
    if pairs is None:
        return {}
    if isinstance(trainer.reference, forward.CachedReference):
        # The network comes back for these pairs and draws: without gradients there is room for it (docs/decisions.md).
        trainer.reference = assembly.make_reference(trainer.config, trainer.backbone, trainer.policy, trainer.rank)
    with trainer.gathered():
        errors = reward.held_out_errors(pairs, trainer.backbone, trainer.reference.errors, trainer.rank.device)
        accuracy = held_out_accuracy(trainer, pairs, errors)
    return {"implicit_reward": {"accuracy": accuracy, "n": pairs.pairs, "draws": REWARD_DRAWS}}
