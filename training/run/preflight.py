"""What is checked before anything large is loaded: settings against store, model, captions and earlier checkpoints."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base import files, logs, tables
from infra.base.errors import UserError
from infra.base.node_cache import check_cache
from pipelines.drawing.prompts import read_prompts
from pipelines.latents import store
from pipelines.raw import pairs
from training.checkpoints import checkpoint
from training.run import health
from training.settings.config import TrainConfig
from training.settings.flags import check_flags


def check_settings(config: TrainConfig) -> tuple[store.Manifest, int]:
    """Check the flags against each other, earlier checkpoints and the store's tables; no weights are looked at.

    Returns:
        The store's manifest, and how many of its pairs the label set decides.

    Raises:
        UserError: naming the flag that does not fit.
    """
    data = config.data
    check_flags(config)
    check_cache(data.cache)
    done = checkpoint.complete_steps(files.resolve(config.output))
    taken = max(done, default=0) if config.resume_from is None else config.resume_from
    if config.steps < taken:
        raise UserError(f"--steps {config.steps}: this run has already taken {taken}; give another --output")
    path = files.resolve(data.store)
    manifest = store.read_manifest(path)
    store.verify(path, manifest)
    labels, _ = store.find_labels(path, data.labels)
    soft = config.objective.objective == "soft"
    table = tables.read([labels], ["label_0", "probability_0"] if soft else ["label_0"])
    decided = int(_decided(table).sum())
    if decided < data.global_batch:
        raise UserError(
            f"--store {data.store}: {decided} labelled pairs, fewer than one --global-batch of {data.global_batch}"
            f"{fitting_batch(config, decided)}"
        )
    if soft:
        _check_probabilities(config, table)
    if data.held_out_store:
        _check_held_out(files.resolve(data.held_out_store), manifest)
    _check_captions_apart(config, path)
    if data.reference is not None:
        from training.run.reference_check import check_draws  # which loads torch

        check_draws(config, decided)
    return manifest, decided


def fitting_batch(config: TrainConfig, decided: int) -> str:
    """Return the end of a sentence that names the largest batch of so many pairs; nothing where there is none."""
    per_worker = decided // config.workers
    if not per_worker:
        return ""
    micro_batch = min(config.data.micro_batch, per_worker)
    global_batch = per_worker // micro_batch * micro_batch * config.workers
    return f"; give --global-batch {global_batch} --micro-batch {micro_batch}"


def check_config(config: TrainConfig) -> TrainConfig:
    """Check the settings of a run, and return them with its models at the commits that every worker shall load.

    Raises:
        UserError: naming the flag that does not fit.
    """
    manifest, decided = check_settings(config)
    seen = health.visits(config, config.steps, decided)
    if seen > health.MANY_VISITS and config.data.held_out_store is None:
        logs.LOGGER.warning(
            f"--steps {config.steps}: each of the {decided:,} pairs is seen {seen:.0f} times and none is held out, so "
            "nothing will show whether the policy learns them by heart; give --held-out-store, or fewer steps"
        )
    from training.run.model_check import check_models  # slow to import; what needs no model is refused by now

    return check_models(config, manifest)


def _decided(labels: pa.Table) -> npt.NDArray[np.bool_]:
    """Say for each row whether it names a winner; numpy's isin would sort a million of them first."""
    label = labels["label_0"].to_numpy()  # a null is NaN
    return (label == 0.0) | (label == 1.0)


def _check_probabilities(config: TrainConfig, labels: pa.Table) -> None:
    """Refuse soft labels where a pair that the label set decides has no probability."""
    decided = _decided(labels)
    probability = labels["probability_0"].to_numpy()[decided]
    lacking = int((~((probability >= 0) & (probability <= 1))).sum())
    if lacking:
        raise UserError(
            f"--objective soft: --labels {config.data.labels} has no probability_0 for {lacking} of {decided.sum()} "
            "labelled pairs; make a label set with relabel.py --label soft"
        )


def _check_held_out(path: str, manifest: store.Manifest) -> None:
    """Refuse held-out pairs that were encoded otherwise than those that are trained on."""
    apart = store.read_manifest(path)
    if apart.latent_shape != manifest.latent_shape:
        raise UserError(f"--held-out-store {path}: its latents are {apart.latent_shape}, here {manifest.latent_shape}")
    if apart.embeddings != manifest.embeddings:
        raise UserError(f"--held-out-store {path}: its captions were encoded with another --max-tokens")
    store.verify(path, apart)


def _check_captions_apart(config: TrainConfig, path: str) -> None:
    """Refuse held-out pairs and validation captions that are trained on: their figures would flatter the model."""
    held_out = config.data.held_out_store
    prompts = config.validation.validation_prompts
    if held_out:
        shared = len(np.intersect1d(_prompt_ids(path), _prompt_ids(files.resolve(held_out))))
        if shared:
            raise UserError(f"--held-out-store {held_out}: {shared} of its captions are in --store too")
    if prompts:
        ids = [pairs.prompt_id(caption) for caption in read_prompts(files.resolve(prompts))]
        shared = int(np.isin(np.unique(ids), _prompt_ids(path)).sum())
        if shared:
            raise UserError(f"--validation-prompts {prompts}: {shared} of its captions are in --store too")


def _prompt_ids(path: str) -> npt.NDArray[np.int64]:
    """Read the ids of a store's captions but the empty one."""
    stored = store.files_of(path, store.read_manifest(path), "prompts")
    ids = tables.read(stored, ["prompt_id"])["prompt_id"].to_numpy()
    return ids[ids != pairs.prompt_id("")]
