"""What is checked before anything large is loaded: settings against store, model, captions and earlier checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from infra import files, models
from infra.errors import UserError
from labelers import scorers
from pipelines import pairs, store
from training import checkpoint
from training.backbone import check_fingerprints
from training.config import TrainConfig
from training.validation import read_prompts


def check_config(config: TrainConfig) -> models.Model:
    """Check the settings of a run, and return its model at the commit that every worker shall load.

    Raises:
        UserError: naming the flag that does not fit.
    """
    data = config.data
    if data.global_batch % (config.workers * data.micro_batch):
        raise UserError(
            f"--global-batch {data.global_batch}: not a multiple of {config.workers} workers "
            f"x --micro-batch {data.micro_batch}"
        )
    if config.keep_checkpoints < 1:
        raise UserError(f"--keep-checkpoints {config.keep_checkpoints}: at least the latest is needed to resume")
    done = checkpoint.complete(Path(files.resolve(config.output)))
    if done and config.steps < (taken := checkpoint.step_of(done[-1])):
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
    check_fingerprints(manifest.fingerprints, models.local_folder(config.model, config.revision, store.FROZEN), path)
    _check_captions_apart(config, path)
    return models.Model(config.model, config.revision).pinned()


def _check_captions_apart(config: TrainConfig, path: str) -> None:
    """Refuse held-out pairs and validation captions that are trained on: their figures would flatter the model."""
    trained, held_out = _prompt_ids(path), config.data.held_out_store
    if held_out:
        other = files.resolve(held_out)
        folder = models.local_folder(config.model, config.revision, store.FROZEN)
        check_fingerprints(store.read_manifest(other).fingerprints, folder, other)
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
