"""Do cached reference errors fit the run that reads them?

Their settings are compared before anything loads; their values with a live reference's when training starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from infra.base import begun, files
from infra.base.errors import UserError
from pipelines.latents import store
from training.backbones.backbone import open_backbone
from training.method import forward, objectives
from training.method.batch import Batch
from training.reference import reference_errors
from training.run import reward
from training.settings.config import TrainConfig

if TYPE_CHECKING:
    from training.run.assembly import Trainer

BETA = 5000.0  # the tolerances are for this beta; an error counts by beta/2
# Largest mean |difference| in logits that is accepted. Where shape, kernels and precision are the same, it is 0.
TOLERANCES = {"float32": 1e-4, "bfloat16": 1.0}
WORDS = {
    "network": "another reference network",
    "store_hash": "another store's pairs",
    "seed": "another --seed",
    "caption_dropout": "another --caption-dropout",
    "prediction_type": "another prediction type",
    "schedule": "another schedule of noise or timesteps",
    "base_precision": "another --base-precision",
}


def check_reference_errors(config: TrainConfig) -> None:
    """Refuse cached errors of another reference, other pairs or other draws than the run's; weights are hashed.

    Raises:
        UserError: in one sentence.
    """
    name = config.data.reference
    if name is None:
        return
    path = files.resolve(config.data.store)
    manifest = reference_errors.read_manifest(path, name)
    now = _settings(config, store.read_manifest(path), manifest.settings)
    differing = begun.differences(vars(manifest.settings), vars(now))
    reasons = [f"{words} ({_short(differing[key])})" for key, words in WORDS.items() if key in differing]
    if reasons:
        raise UserError(
            f"--reference {name}: was computed with {'; '.join(reasons)}; run encode_reference.py with this run's "
            "settings and another --name"
        )


def _settings(
    config: TrainConfig, manifest: store.Manifest, before: reference_errors.Settings
) -> reference_errors.Settings:
    return reference_errors.Settings.of(
        open_backbone(config.reference.folder(), config.schedule),
        manifest,
        config.seed,
        config.data.caption_dropout,
        config.data.micro_batch,
        config.precision,
        config.policy.base_precision,
        before,
    )


def _short(values: tuple[Any, Any]) -> str:
    """Write a setting's two values, hashes by their first 16 digits."""
    shortened = [value[:16] if isinstance(value, str) else value for value in values]
    return f"{shortened[0]}, here {shortened[1]}"


def meet_reference(trainer: Trainer, step: int, share: Callable[[int], list[Batch]]) -> None:
    """Take what is needed from the live reference; let it go where training needs none, or has its errors cached.

    Args:
        step: the next to be taken.
        share: assembles this rank's micro-batches of a step.

    Raises:
        UserError: on every rank, if the cached errors of the next step are not the live ones.
    """
    if trainer.held_out:
        with trainer.gathered():
            trainer.held_out_reference_errors = reward.held_out_errors(
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
    config = trainer.config
    name = config.data.reference
    assert name is not None
    manifest = reference_errors.read_manifest(files.resolve(config.data.store), name)
    differences = []
    for batch in batches:
        moved = batch.to(trainer.rank.device)
        assert moved.reference_errors is not None
        gap = objectives.margins(trainer.reference.errors(moved), moved.reference_errors)  # live, less cached
        differences.append(objectives.logits(gap, config.objective.greatest_beta).abs())
    spread = torch.cat(differences)
    mean = spread.double().mean()
    largest = spread.double().max()
    if trainer.rank.world_size > 1:
        dist.all_reduce(mean)
        mean /= trainer.rank.world_size
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    allowed = (
        max(TOLERANCES[manifest.settings.precision], TOLERANCES[config.precision])
        * config.objective.greatest_beta
        / BETA
    )
    measured = (
        f"the reference errors {name} and the live reference's differ by {mean.item():.1e} logits in the mean, "
        f"{largest.item():.1e} at the most, over the pairs of step {step + 1}"
    )
    if not mean.item() <= allowed:  # also where it is not a number
        raise UserError(
            f"--reference {name}: {measured}; {allowed:.1e} in the mean is let pass, so these are not its own"
        )
    if trainer.rank.rank == 0:
        print(measured, flush=True)
        otherwise = _otherwise(trainer, manifest)
        if otherwise:
            print(
                f"computed with {otherwise}, so losses equal an inline run's within rounding, not bit for bit",
                flush=True,
            )


def _otherwise(trainer: Trainer, manifest: reference_errors.Manifest) -> str:
    """Name what was otherwise when the cached errors were computed, so that last bits differ; empty where nothing."""
    config = trainer.config
    here = reference_errors.hardware(trainer.rank.device)
    pairs = manifest.settings.batch_size
    precision = manifest.settings.precision
    differences = []
    if pairs != config.data.micro_batch:
        differences.append(f"{pairs} pairs in a pass (here --micro-batch {config.data.micro_batch})")
    if precision != config.precision:
        differences.append(f"{precision} (here --precision {config.precision})")
    if manifest.hardware != (here,):
        differences.append(f"{' and '.join(manifest.hardware)} (here {here})")
    return ", ".join(differences)
