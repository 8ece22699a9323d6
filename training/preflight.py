"""What is checked before anything large is loaded: settings against store, model, captions and earlier checkpoints."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from infra import files, models
from infra.errors import UserError
from labelers import scorers
from pipelines import pairs, store
from pipelines.kinds import kind_of, pipeline_class
from training import checkpoint
from training.backbone import check_fingerprints, open_backbone
from training.config import TrainConfig
from training.objectives import ObjectiveConfig
from training.optimizers import check_optimizer
from training.policy import lora_targets, skeleton
from training.reference_check import check_reference_errors
from training.validation import read_prompts


def check_settings(config: TrainConfig) -> tuple[store.Manifest, int]:
    """Check the flags against each other, earlier checkpoints and the store's tables; no weights are looked at.

    Returns:
        The store's manifest, and how many of its pairs the label set decides.

    Raises:
        UserError: naming the flag that does not fit.
    """
    data = config.data
    check_batch(config)
    check_objective(config.objective)
    if config.keep_checkpoints < 1:
        raise UserError(f"--keep-checkpoints {config.keep_checkpoints}: at least the latest is needed to resume")
    if config.reference_revision is not None and config.reference_model is None:
        raise UserError(f"--reference-revision {config.reference_revision}: of which --reference-model?")
    done = [checkpoint.step_of(folder) for folder in checkpoint.complete(Path(files.resolve(config.output)))]
    taken = max(done, default=0) if config.resume_from is None else config.resume_from
    if config.steps < taken:
        raise UserError(f"--steps {config.steps}: this run has already taken {taken}; give another --output")
    path = files.resolve(data.store)
    manifest = store.read_manifest(path)
    store.verify(path, manifest)
    table, _ = store.read_labels(path, data.labels)
    decided = sum(label in (0.0, 1.0) for label in table["label_0"].to_pylist())
    if decided < data.global_batch:
        raise UserError(
            f"--store {data.store}: {decided} labelled pairs, fewer than one --global-batch of {data.global_batch}"
        )
    if config.objective.objective == "soft":
        _check_probabilities(config, table)
    _check_policy(config)
    _check_sharding(config)
    _check_captions_apart(config, path)
    return manifest, decided


def check_config(config: TrainConfig) -> TrainConfig:
    """Check the settings of a run, and return them with its models at the commits that every worker shall load.

    Raises:
        UserError: naming the flag that does not fit.
    """
    manifest, decided = check_settings(config)
    path = files.resolve(config.data.store)
    # First the settings alone, then the frozen parts: what does not fit is refused before the network is fetched.
    backbone = open_backbone(config.start.folder(()), config.schedule)
    if config.policy.lora_rank:
        lora_targets(skeleton(backbone), config.policy.lora_targets)
    check_fingerprints(manifest.fingerprints, _frozen_folder(config.start, manifest), path)
    if config.data.held_out_store:
        other = files.resolve(config.data.held_out_store)
        apart = store.read_manifest(other)
        check_fingerprints(apart.fingerprints, _frozen_folder(config.start, apart), other)
        if apart.embeddings != manifest.embeddings:
            raise UserError(f"--held-out-store {other}: its captions were encoded with another --max-tokens")
    if config.validation.validation_prompts:
        scorers.check(config.validation.validation_scorer, config.validation.validation_weights)
    _check_reference(config, manifest)
    check_reference_errors(config, decided)
    pinned = replace(config, revision=config.start.pinned().revision)
    if config.reference_model is None:
        return pinned
    return replace(pinned, reference_revision=config.reference.pinned().revision)


def check_batch(config: TrainConfig) -> None:
    """Refuse a global batch that the workers cannot share out: evenly, or with elastic workers in whole pairs.

    Raises:
        UserError: naming the flags.
    """
    data, least = config.data, config.min_workers
    if least is None:
        if data.global_batch % (config.workers * data.micro_batch):
            raise UserError(
                f"--global-batch {data.global_batch}: not a multiple of {config.workers} workers "
                f"x --micro-batch {data.micro_batch}"
            )
        return
    if not 1 <= least <= config.workers:
        raise UserError(f"--min-workers {least}: from 1 to --workers {config.workers}")
    if data.global_batch < config.workers:
        raise UserError(f"--global-batch {data.global_batch}: fewer pairs than --workers {config.workers}")
    uneven = [world for world in range(least, config.workers + 1) if data.global_batch % world]
    if data.micro_batch == 1 and uneven:  # a rank with one pair fewer would have nothing for its last pass
        raise UserError(
            f"--micro-batch 1: {uneven[0]} of --min-workers {least} to --workers {config.workers} does not divide "
            f"--global-batch {data.global_batch}; give --micro-batch 2 or another global batch"
        )


def check_objective(config: ObjectiveConfig) -> None:
    """Refuse parameters that the objective does not have, or that make no loss.

    Raises:
        UserError: naming the flags.
    """
    chosen = f"--objective {config.objective}"
    owned = {
        "label_smoothing": (config.objective == "conservative", "--objective conservative"),
        **dict.fromkeys(("mapo_k", "mapo_b", "mapo_t"), (config.objective == "mapo", "--objective mapo")),
        "snr_gamma": (config.weighting == "min-snr", "--weighting min-snr"),
    }
    for name, (used, owner) in owned.items():
        if not used and getattr(config, name) != getattr(ObjectiveConfig(), name):
            raise UserError(f"{_flag(config, name)}: only {owner} has it, and this is {chosen}")
    for name in ("mapo_k", "mapo_b", "mapo_t", "snr_gamma", *(["beta"] if config.needs_reference else [])):
        if not 0 < getattr(config, name) < math.inf:
            raise UserError(f"{_flag(config, name)}: must be above 0")
    if not 0 <= config.label_smoothing < 0.5:
        raise UserError(f"{_flag(config, 'label_smoothing')}: from 0 to below 0.5, where labels would say nothing")
    if config.objective == "mapo" and config.weighting != "constant":
        raise UserError(f"--weighting {config.weighting}: {chosen} has none; its k stands in a timestep weight's place")


def _flag(config: ObjectiveConfig, name: str) -> str:
    return f"--{name.replace('_', '-')} {getattr(config, name):g}"


def _check_probabilities(config: TrainConfig, labels: pa.Table) -> None:
    """Refuse soft labels where a pair that the label set decides has no probability."""
    decided = np.isin(labels["label_0"].to_numpy(), (0.0, 1.0))
    probability = labels["probability_0"].to_numpy()[decided]
    if lacking := int((~((probability >= 0) & (probability <= 1))).sum()):
        raise UserError(
            f"--objective soft: --labels {config.data.labels} has no probability_0 for {lacking} of {decided.sum()} "
            "labelled pairs; make a label set with relabel.py --label soft"
        )


def _check_policy(config: TrainConfig) -> None:
    """Refuse settings of adapters, average and optimizer that make no sense."""
    policy = config.policy
    if policy.lora_rank < 0:
        raise UserError(f"--lora-rank {policy.lora_rank}: must be at least 1, or 0 to train the network itself")
    if policy.lora_alpha is not None and policy.lora_alpha < 1:
        raise UserError(f"--lora-alpha {policy.lora_alpha}: must be at least 1")
    if policy.ema_decay is not None and not 0 < policy.ema_decay < 1:
        raise UserError(f"--ema-decay {policy.ema_decay}: must be between 0 and 1")
    check_optimizer(config.optimizer)
    if not policy.lora_rank and (policy.lora_alpha is not None or policy.lora_targets):
        raise UserError("--lora-alpha and --lora-targets: of which --lora-rank? Without one no adapters are trained")


def _check_sharding(config: TrainConfig) -> None:
    """Refuse a layout that the network or its shards cannot have."""
    layout = config.sharding
    if layout.sharding == "fsdp" and config.policy.lora_rank:
        raise UserError("--sharding fsdp: adapters are small; leave it out, or leave --lora-rank out")
    if layout.sharding == "fsdp" and config.optimizer.optimizer != "adamw":
        raise UserError(
            f"--sharding fsdp: the state of --optimizer {config.optimizer.optimizer} has no shards; take adamw"
        )
    if not layout.channels_last:
        return
    if layout.sharding == "fsdp":
        raise UserError("--channels-last: shards have no such layout; leave it out, or take --sharding ddp")
    part = kind_of(config.start.folder(())).network
    if part != "unet":
        raise UserError(f"--channels-last: a layout of convolutions, and the {part} of --model {config.model} has none")


def _frozen_folder(model: models.Model, manifest: store.Manifest) -> Path:
    """Fetch a model's settings and the frozen parts that a store depends on."""
    return model.folder(kind_of(model.folder(())).frozen_in(manifest.fingerprints))


def _check_reference(config: TrainConfig, manifest: store.Manifest) -> None:
    """Refuse a reference whose errors are not of the same latents, captions, schedule and shape as the policy's."""
    if config.reference_model is None:
        return
    start, reference = (_frozen_folder(model, manifest) for model in (config.start, config.reference))
    told = f"--reference-model {config.reference_model}"
    if pipeline_class(start) != pipeline_class(reference):
        raise UserError(f"{told}: a {pipeline_class(reference)}, but --model is a {pipeline_class(start)}")
    backbones = open_backbone(start, config.schedule), open_backbone(reference, config.schedule)
    for name in kind_of(start).frozen_in(manifest.fingerprints):
        if models.fingerprint(start, name) != models.fingerprint(reference, name):
            raise UserError(f"{told}: its {name} is not that of --model {config.model}, so it would see other inputs")
    if backbones[0].schedule() != backbones[1].schedule():
        raise UserError(f"{told}: its noise schedule is not that of --model {config.model}")
    shapes = [backbone.network_settings() for backbone in backbones]
    if differing := sorted(k for k in shapes[0].keys() | shapes[1].keys() if shapes[0].get(k) != shapes[1].get(k)):
        raise UserError(f"{told}: its network differs from --model {config.model} in {', '.join(differing)}")


def _check_captions_apart(config: TrainConfig, path: str) -> None:
    """Refuse held-out pairs and validation captions that are trained on: their figures would flatter the model."""
    held_out, prompts = config.data.held_out_store, config.validation.validation_prompts
    if held_out and (shared := len(np.intersect1d(_prompt_ids(path), _prompt_ids(files.resolve(held_out))))):
        raise UserError(f"--held-out-store {held_out}: {shared} of its captions are in --store too")
    if prompts:
        ids = [pairs.prompt_id(caption) for caption in read_prompts(files.resolve(prompts))]
        if shared := int(np.isin(np.unique(ids), _prompt_ids(path)).sum()):
            raise UserError(f"--validation-prompts {prompts}: {shared} of its captions are in --store too")


def _prompt_ids(path: str) -> npt.NDArray[np.int64]:
    """Read the ids of a store's captions but the empty one."""
    parts = []
    for name in files.list_files(files.join(path, "prompts"), ".parquet"):
        filesystem, inner = files.open_filesystem(name)
        parts.append(pq.read_table(inner, filesystem=filesystem, columns=["prompt_id"])["prompt_id"].to_numpy())
    ids = np.concatenate(parts)
    return ids[ids != pairs.prompt_id("")]
