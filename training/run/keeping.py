"""What of a run is kept and taken up again: weights, optimizer state and the step they belong to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from infra.base import disk_errors, files
from infra.base.errors import UserError
from training.checkpoints import checkpoint, sharded_checkpoint
from training.checkpoints.run_folder import remove_result
from training.layout import sharding
from training.method import optimizers
from training.method.policy import load_weights, trained
from training.run.assembly import Rank, Trainer
from training.run.assessment import agree


def resume(trainer: Trainer) -> int:
    """Load the last complete checkpoint, or the one that --resume-from names, and return its step; 0 without one.

    Nothing is deleted: begin_from does that, once nothing more can be refused.

    Raises:
        UserError: if the checkpoint belongs to other data, seed or batch, or cannot be read.
    """
    latest = agree(_latest(trainer) if trainer.rank.rank == 0 else None, trainer.rank)
    if latest is None:
        return 0
    if trainer.mirror:
        trainer.mirror.bring(latest)
    folder = checkpoint.folder_of(trainer.output, latest)
    state = agree(checkpoint.read_state(folder) if trainer.rank.rank == 0 else None, trainer.rank)
    expected = run_state(trainer, state.step)
    if state != expected:
        differences = "; ".join(
            f"{name} was {was}, now {getattr(expected, name)}"
            for name, was in vars(state).items()
            if was != getattr(expected, name)
        )
        raise UserError(f"{trainer.writer.output} holds another run ({differences}); give another --output")
    try:
        _load(trainer, folder, state.step)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be read ({disk_errors.reason(error)}); delete it to resume from the one before"
        ) from error
    return state.step


def _load(trainer: Trainer, folder: Path, step: int) -> None:
    weights = trained(trainer.policy)
    load_weights(trainer.policy, sharded_checkpoint.load(folder, "network", weights))
    moments = sharded_checkpoint.load(folder, "optimizer", weights)
    optimizers.load_state(trainer.optimizer, weights, moments)
    if trainer.average:
        trainer.average.load(sharded_checkpoint.load(folder, "ema", weights), step)


def begin_from(trainer: Trainer, step: int) -> None:
    """Forget what the run has of later steps: notes, and after --resume-from checkpoints and the result, too.

    The request is forgotten last, so that after a kill in the middle the next attempt does the rest.
    """
    if trainer.rank.rank == 0:
        place = files.resolve(trainer.config.output)
        if checkpoint.is_asked_to_rewind(place):
            remove_result(place)  # of a run that is not finished any more
            checkpoint.rewind(place, step)
            checkpoint.forget_request(place)
    trainer.journal.rewind(step)


def _latest(trainer: Trainer) -> int | None:
    """Find the step of the checkpoint to go on from; None without one. Only rank 0 looks."""
    if trainer.mirror:
        return trainer.mirror.begin()
    return checkpoint.next_start(str(trainer.output))


def run_state(trainer: Trainer, step: int) -> checkpoint.State:
    """Describe the run after a step: all that order and draws depend on."""
    return checkpoint.State(
        step=step,
        seed=trainer.config.seed,
        global_batch=trainer.config.data.global_batch,
        store_hash=trainer.data.pairs.manifest.content_hash,
        labels_hash=trainer.data.labels_hash,
    )


def save(trainer: Trainer, step: int) -> None:
    """Copy weights and optimizer state, and write them while training goes on.

    What is no longer needed goes first, when every checkpoint is complete and the last one judged: a kill before the
    new one is complete then finds all that the notes up to the last one name.
    """
    started = time.perf_counter()
    trainer.writer.wait()
    best = sweep(trainer) if trainer.rank.rank == 0 else None
    if trainer.rank.rank == 0 or sharding.is_sharded(trainer.policy):
        jobs = _writing(trainer, step, best)
        jobs.append(partial(_report, trainer.rank, step, started, time.perf_counter() - started))
        trainer.writer.submit(partial(_in_turn, jobs))


def _writing(trainer: Trainer, step: int, best: int | None) -> list[Callable[[], None]]:
    """Copy what a checkpoint keeps, and return the jobs that write it and, of a run folder on S3, send it."""
    state = run_state(trainer, step)
    groups = checkpoint.copied(snapshot(trainer))
    keep = trainer.config.keep_checkpoints
    jobs: list[Callable[[], None]]
    if sharding.is_sharded(trainer.policy):
        workers = trainer.writer.workers
        jobs = [partial(sharded_checkpoint.save, trainer.output, state, groups, workers)]
        if trainer.mirror:
            jobs.append(partial(sharded_checkpoint.send, trainer.mirror, step, keep, best, workers))
    else:
        jobs = [partial(checkpoint.save, trainer.output, state, groups)]
        if trainer.mirror:
            jobs.append(partial(trainer.mirror.send, step, keep, best))
    return jobs


def _report(rank: Rank, step: int, started: float, held_up: float) -> None:
    """Report that a checkpoint is complete, how long that took, and how long training waited for it, in seconds."""
    seconds = time.perf_counter() - started
    rank.on_checkpoint({"step": step, "held_up_seconds": held_up, "seconds": seconds})


def _in_turn(jobs: Sequence[Callable[[], None]]) -> None:
    for job in jobs:
        job()


def sweep(trainer: Trainer) -> int | None:
    """Keep the best and the latest checkpoints; return the step of the best, None where none was judged.

    One that --resume-from left behind may have been judged higher than all that are still there.
    """
    best = trainer.journal.best_step(
        checkpoint.complete_steps(files.resolve(trainer.config.output)), trainer.config.stop_when
    )
    checkpoint.sweep(trainer.output, trainer.config.keep_checkpoints, best)
    return best


def snapshot(trainer: Trainer) -> checkpoint.Groups:
    """Return what a checkpoint keeps, by group: trained weights, optimizer state, and their average if one is kept."""
    weights = trained(trainer.policy)
    groups: checkpoint.Groups = {"network": weights, "optimizer": optimizers.state_tensors(trainer.optimizer, weights)}
    return {**groups, "ema": trainer.average.tensors()} if trainer.average else groups
