"""What is checked before anything large is loaded: settings against store, model, captions and earlier checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from infra import files, models
from infra.errors import UserError
from labelers import scorers
from pipelines import pairs, store
from training import checkpoint
from training.backbone import check_fingerprints, open_backbone
from training.config import TrainConfig
from training.validation import read_prompts


def check_config(config: TrainConfig) -> TrainConfig:
    """Check the settings of a run, and return them with its models at the commits that every worker shall load.

    Raises:
        UserError: naming the flag that does not fit.
    """
    data = config.data
    check_batch(config)
    if config.keep_checkpoints < 1:
        raise UserError(f"--keep-checkpoints {config.keep_checkpoints}: at least the latest is needed to resume")
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
    # First the frozen parts alone: a store of another model is refused before the network is fetched.
    check_fingerprints(manifest.fingerprints, config.start.folder(store.FROZEN), path)
    _check_sharding(config)
    _check_reference(config)
    _check_captions_apart(config, path)
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


def _check_sharding(config: TrainConfig) -> None:
    """Refuse a layout that the network or its shards cannot have."""
    if not config.sharding.channels_last:
        return
    if config.sharding.sharding == "fsdp":
        raise UserError("--channels-last: shards have no such layout; leave it out, or take --sharding ddp")
    part = open_backbone(config.start.folder(store.FROZEN)).network_folder
    if part != "unet":
        raise UserError(f"--channels-last: a layout of convolutions, and the {part} of --model {config.model} has none")


def _check_reference(config: TrainConfig) -> None:
    """Refuse a reference whose errors are not of the same latents, captions, schedule and shape as the policy's."""
    if config.reference_model is None:
        if config.reference_revision is not None:
            raise UserError(f"--reference-revision {config.reference_revision}: of which --reference-model?")
        return
    start, reference = (model.folder(store.FROZEN) for model in (config.start, config.reference))
    backbones = open_backbone(start), open_backbone(reference)
    told = f"--reference-model {config.reference_model}"
    for name in store.FROZEN:
        if models.fingerprint(start, name) != models.fingerprint(reference, name):
            raise UserError(f"{told}: its {name} is not that of --model {config.model}, so it would see other inputs")
    if backbones[0].schedule() != backbones[1].schedule():
        raise UserError(f"{told}: its noise schedule is not that of --model {config.model}")
    shapes = [backbone.network_settings() for backbone in backbones]
    if differing := sorted(k for k in shapes[0].keys() | shapes[1].keys() if shapes[0].get(k) != shapes[1].get(k)):
        raise UserError(f"{told}: its network differs from --model {config.model} in {', '.join(differing)}")


def _check_captions_apart(config: TrainConfig, path: str) -> None:
    """Refuse held-out pairs and validation captions that are trained on: their figures would flatter the model."""
    trained, held_out = _prompt_ids(path), config.data.held_out_store
    if held_out:
        other = files.resolve(held_out)
        check_fingerprints(store.read_manifest(other).fingerprints, config.start.folder(store.FROZEN), other)
        if shared := len(np.intersect1d(trained, _prompt_ids(other))):
            raise UserError(f"--held-out-store {held_out}: {shared} of its captions are in --store too")
    if prompts := config.validation.validation_prompts:
        scorers.check(config.validation.validation_scorer, config.validation.validation_weights)
        ids = [pairs.prompt_id(caption) for caption in read_prompts(files.resolve(prompts))]
        if shared := int(np.isin(np.unique(ids), trained).sum()):
            raise UserError(f"--validation-prompts {prompts}: {shared} of its captions are in --store too")


def _prompt_ids(path: str) -> npt.NDArray[np.int64]:
    """Read the ids of a store's captions but the empty one."""
    parts = []
    for name in files.list_files(files.join(path, "prompts"), ".parquet"):
        filesystem, inner = files.open_filesystem(name)
        parts.append(pq.read_table(inner, filesystem=filesystem, columns=["prompt_id"])["prompt_id"].to_numpy())
    ids = np.concatenate(parts)
    return ids[ids != pairs.prompt_id("")]
