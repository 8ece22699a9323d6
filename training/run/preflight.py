"""What is checked before anything large is loaded: settings against store, model, captions and earlier checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base import counting, files, logs, models, tables
from infra.base.errors import UserError
from infra.base.node_cache import check_cache
from labelers.scoring import scorers
from pipelines.drawing.prompts import read_prompts
from pipelines.drawing.sampling import check_steps
from pipelines.latents import identity, store, weight_files
from pipelines.latents.kinds import kind_of, pipeline_class
from pipelines.raw import pairs
from training.backbones.backbone import check_fingerprints, open_backbone
from training.checkpoints import checkpoint
from training.method.policy import lora_targets
from training.run import exports, health
from training.run.reference_check import check_draws, check_reference_errors
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
    table = tables.read([labels], ["label_0", "probability_0"])
    decided = int(np.isin(table["label_0"].to_numpy(), (0.0, 1.0)).sum())  # a null is NaN here
    if decided < data.global_batch:
        raise UserError(
            f"--store {data.store}: {decided} labelled pairs, fewer than one --global-batch of {data.global_batch}"
            f"{fitting_batch(config, decided)}"
        )
    if config.objective.objective == "soft":
        _check_probabilities(config, table)
    if data.held_out_store:
        _check_held_out(files.resolve(data.held_out_store), manifest)
    _check_captions_apart(config, path)
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
    path = files.resolve(config.data.store)
    # First the settings alone, then the frozen parts: what does not fit is refused before the network is fetched.
    weight_files.check_folder(config.start.folder(()), ())
    backbone = open_backbone(config.start.folder(()), config.schedule)
    if config.export == "single-file":
        exports.check(backbone.folder, lora=bool(config.policy.lora_rank))
    if config.policy.lora_rank:
        lora_targets(counting.empty(backbone.folder, backbone.network_folder), config.policy.lora_targets)
    check_fingerprints(manifest.fingerprints, _frozen_folder(config.start, manifest), path)
    if config.data.held_out_store:
        other = files.resolve(config.data.held_out_store)
        apart = store.read_manifest(other)
        check_fingerprints(apart.fingerprints, _frozen_folder(config.start, apart), other)
    validation = config.validation
    if validation.validation_prompts:
        captions = read_prompts(files.resolve(validation.validation_prompts))
        scorers.check(validation.validation_scorer, validation.validation_weights, captions)
        check_steps(config.start.folder(()), validation.sampling_steps)
    if validation.sample_prompts:
        read_prompts(files.resolve(validation.sample_prompts))
        check_steps(config.start.folder(()), validation.sampling_steps)
    _check_reference(config, manifest)
    check_reference_errors(config)
    start = config.start.pinned()
    pinned = replace(config, model=start.name, revision=start.revision)
    weight_files.check_weights(config.start.folder(), (backbone.network_folder,))
    if config.reference_model is None:
        return pinned
    weight_files.check_weights(config.reference.folder(), (backbone.network_folder,), "--reference-model")
    reference = config.reference.pinned()
    return replace(pinned, reference_model=reference.name, reference_revision=reference.revision)


def _check_probabilities(config: TrainConfig, labels: pa.Table) -> None:
    """Refuse soft labels where a pair that the label set decides has no probability."""
    decided = np.isin(labels["label_0"].to_numpy(), (0.0, 1.0))
    probability = labels["probability_0"].to_numpy()[decided]
    lacking = int((~((probability >= 0) & (probability <= 1))).sum())
    if lacking:
        raise UserError(
            f"--objective soft: --labels {config.data.labels} has no probability_0 for {lacking} of {decided.sum()} "
            "labelled pairs; make a label set with relabel.py --label soft"
        )


def _frozen_folder(model: models.Model, manifest: store.Manifest, flag: str = "--model") -> Path:
    """Fetch a model's settings and the frozen parts that a store depends on; flag: the one that names the model."""
    return model.folder(kind_of(model.folder((), flag)).frozen_in(manifest.fingerprints), flag)


def _check_reference(config: TrainConfig, manifest: store.Manifest) -> None:
    """Refuse a reference that would see other latents, captions or noise than the policy, or has another shape."""
    if config.reference_model is None:
        return
    start = _frozen_folder(config.start, manifest)
    reference = _frozen_folder(config.reference, manifest, "--reference-model")
    named = f"--reference-model {config.reference_model}"
    weight_files.check_folder(reference, (), "--reference-model")
    if pipeline_class(start) != pipeline_class(reference):
        raise UserError(f"{named}: a {pipeline_class(reference)}, but --model is a {pipeline_class(start)}")
    backbones = open_backbone(start, config.schedule), open_backbone(reference, config.schedule)
    for name in kind_of(start).frozen_in(manifest.fingerprints):
        if identity.fingerprint(start, name) != identity.fingerprint(reference, name):
            raise UserError(f"{named}: its {name} is not that of --model {config.model}, so it would see other inputs")
    if backbones[0].schedule() != backbones[1].schedule():
        raise UserError(f"{named}: its noise schedule is not that of --model {config.model}")
    shapes = [backbone.network_settings() for backbone in backbones]
    names = shapes[0].keys() | shapes[1].keys()
    differing = sorted(name for name in names if shapes[0].get(name) != shapes[1].get(name))
    if differing:
        raise UserError(f"{named}: its network differs from --model {config.model} in {', '.join(differing)}")


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
