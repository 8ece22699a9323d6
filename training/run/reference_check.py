"""Cached reference errors against the run that reads them: by their settings before anything loads, by a live reference
when training starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from infra.base import files
from infra.base.errors import UserError
from pipelines.latents import store
from training.backbones.backbone import open_backbone
from training.method import forward, objectives
from training.method.batch import Batch
from training.reference import reference_errors
from training.run import reward
from training.run.journal import say
from training.settings.config import TrainConfig

if TYPE_CHECKING:
    from training.run.assembly import Trainer

BETA = 5000.0  # that the tolerances are for; an error counts by beta/2
# Mean |difference| in logits at that beta. Where shape, kernels and precision are the same, it is 0.
TOLERANCES = {"float32": 1e-4, "bfloat16": 1.0}
WORDS = {
    "network": "another reference network",
    "store_hash": "another store's pairs",
    "seed": "another --seed",
    "caption_dropout": "another --caption-dropout",
    "prediction_type": "another prediction type",
    "schedule": "another schedule of noise or timesteps",
}


def check_draws(config: TrainConfig, decided: int) -> None:
    """Refuse cached errors that are absent, altered, not needed, or of too few draws.

    Args:
        decided: pairs that the label set decides.

    Raises:
        UserError: in one sentence.
    """
    data, name = config.data, config.data.reference
    if name is None:
        return
    if not config.objective.needs_reference:
        raise UserError(f"--reference {name}: --objective {config.objective.objective} needs no reference")
    path = files.resolve(data.store)
    found = reference_errors.read_manifest(path, name)
    store.verify(reference_errors.folder_of(path, name), found)
    steps_a_draw = decided // data.global_batch
    if (needed := draws_needed(config.steps, decided, data.global_batch)) > found.draws:
        raise UserError(
            f"--reference {name}: {config.steps} steps visit the {decided} pairs {needed} times, and it has "
            f"{found.draws} draws, enough for --steps {found.draws * steps_a_draw}; run encode_reference.py with "
            f"--draws {needed}"
        )


def check_reference_errors(config: TrainConfig) -> None:
    """Refuse cached errors of another reference, other pairs or other draws than the run's; weights are hashed.

    Raises:
        UserError: in one sentence.
    """
    name = config.data.reference
    if name is None:
        return
    path = files.resolve(config.data.store)
    found = reference_errors.read_manifest(path, name)
    differing = found.settings.differences(_settings(config, store.read_manifest(path)))
    if told := [f"{words} ({_short(differing[key])})" for key, words in WORDS.items() if key in differing]:
        raise UserError(
            f"--reference {name}: was computed with {'; '.join(told)}; run encode_reference.py with this run's "
            "settings and another --name"
        )


def draws_needed(steps: int, pairs: int, global_batch: int) -> int:
    """Count the epochs that steps take part in: the last step's, counted from 0, and one."""
    return (steps - 1) // (pairs // global_batch) + 1


def _settings(config: TrainConfig, manifest: store.Manifest) -> reference_errors.Settings:
    return reference_errors.Settings.of(
        open_backbone(config.reference.folder(), config.schedule),
        manifest,
        config.seed,
        config.data.caption_dropout,
        config.data.micro_batch,
        config.precision,
    )


def _short(values: tuple[Any, Any]) -> str:
    before, now = (value[:16] if isinstance(value, str) else value for value in values)
    return f"{before}, here {now}"


def meet_reference(trainer: Trainer, step: int, share: Callable[[int], list[Batch]]) -> None:
    """Ask the live reference for all that is wanted of it, and let it go where training needs none or cached errors.

    Args:
        step: the next to be taken.
        share: assembles this rank's micro-batches of a step.

    Raises:
        UserError: on every rank, if the cached errors of the next step are not the live ones.
    """
    if trainer.held_out:
        with trainer.gathered():
            trainer.held_out_reference = reward.held_out_errors(
                trainer.held_out, trainer.backbone, trainer.reference.errors, trainer.rank.device
            )
    if trainer.config.data.reference is not None:
        if step < trainer.config.steps:
            _compare(trainer, step, share(step))
    elif trainer.config.objective.needs_reference:
        return
    trainer.reference = forward.CachedReference()
    if trainer.rank.device.type == "cuda":
        torch.cuda.empty_cache()


def _compare(trainer: Trainer, step: int, batches: list[Batch]) -> None:
    """Compare cached with live errors on the whole batch of a step.

    The design's |difference in logits| <= 1e-4 in float32 at beta 5000 is held as a mean: one unit in the last place of
    an error near 1 is 3e-4 already. Measured on the embedded world at micro-batch 16 against 1: mean 3e-5, largest
    4e-4. In bfloat16 other kernels mean other rounding at every layer: against float32 the same model differs by 0.3
    root mean square at 4 x 64 x 64, by 1 at 4 x 8 x 8; the mean is held to 1. Those of another draw are off by 50
    in the mean.
    """
    config, name = trainer.config, trainer.config.data.reference
    assert name is not None
    found = reference_errors.read_manifest(files.resolve(config.data.store), name)
    differences = []
    for batch in batches:
        moved = batch.to(trainer.rank.device)
        assert moved.reference_errors is not None
        margin = objectives.margins(trainer.reference.errors(moved), moved.reference_errors)
        differences.append(objectives.logits(margin, config.objective.beta).abs())
    spread = torch.cat(differences)
    mean, largest = spread.double().mean(), spread.double().max()
    if trainer.rank.world_size > 1:
        dist.all_reduce(mean)
        mean /= trainer.rank.world_size
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    allowed = max(TOLERANCES[found.settings.precision], TOLERANCES[config.precision]) * config.objective.beta / BETA
    told = (
        f"the reference errors {name} and the live reference's differ by {mean.item():.1e} logits in the mean, "
        f"{largest.item():.1e} at the most, over the pairs of step {step + 1}"
    )
    if not mean.item() <= allowed:  # also where it is not a number
        raise UserError(f"--reference {name}: {told}; {allowed:.1e} in the mean is let pass, so these are not its own")
    if trainer.rank.rank == 0:
        say(told)
        if inexact := _inexact(trainer, found):
            say(f"computed with {inexact}, so losses equal an inline run's within rounding, not bit for bit")


def _inexact(trainer: Trainer, found: reference_errors.Manifest) -> str:
    """Tell what keeps cached errors from being the inline ones bit for bit; nothing where they are."""
    config, mine = trainer.config, reference_errors.hardware(trainer.rank.device)
    told = []
    if (pairs := found.settings.batch_size) != config.data.micro_batch:
        told.append(f"{pairs} pairs in a pass (here --micro-batch {config.data.micro_batch})")
    if (precision := found.settings.precision) != config.precision:
        told.append(f"{precision} (here --precision {config.precision})")
    if found.hardware != (mine,):
        told.append(f"{' and '.join(found.hardware)} (here {mine})")
    return ", ".join(told)
