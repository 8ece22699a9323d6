"""What is checked before anything large is loaded: settings against store, model, captions and earlier checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base import files, logs, tables
from infra.base.errors import UserError
from infra.base.node_cache import check_cache
from pipelines.drawing.prompts import read_prompts
from pipelines.latents import label_files, schemas, stated, store
from pipelines.raw import pairs
from training.checkpoints import checkpoint
from training.data import hold_out
from training.method.order import steps_an_epoch, usable
from training.run import draws_check, health, trackers
from training.settings.config import TrainConfig
from training.settings.flags import check_flags

GIVEN_UP = 0.1  # share of a small set's pairs whose buckets may fill no micro-batch


def check_settings(config: TrainConfig) -> tuple[store.Manifest, dict[int, int]]:
    """Check the flags against each other, earlier checkpoints and the store's tables; no weights are looked at.

    Returns:
        The store's manifest, and how many of its pairs the label set decides in each bucket that has any, by the
        bucket's place among the manifest's; a store of squares has place 0 alone.

    Raises:
        UserError: naming the flag that does not fit.
    """
    data = config.data
    check_flags(config)
    trackers.check(config.tracking.report_to)
    check_cache(data.cache)
    done = checkpoint.complete_steps(files.resolve(config.output))
    taken = max(done, default=0) if config.resume_from is None else config.resume_from
    if config.steps < taken:
        raise UserError(f"--steps {config.steps}: this run has already taken {taken}; give another --output")
    path = files.resolve(data.store)
    manifest = store.read_manifest(path)
    store.verify(path, manifest)
    if data.hold_out and manifest.counts.prompts < 2:
        raise UserError(
            f"--hold-out {data.hold_out:g}: captions are held out, and --store {data.store} has one alone; leave it "
            "out, or give --held-out-store"
        )
    labels = label_files.find_labels(path, data.labels)
    decided = decided_pairs(path, *labels, data.hold_out)
    refuse_few(config, decided)
    counts = {0: decided}
    if manifest.buckets:
        counts = _bucket_counts(path, manifest, labels[0], data.hold_out)
        _check_buckets(config, manifest, counts)
    if config.objective.objective == "soft":
        _check_probabilities(config, path)
    if data.held_out_store:
        _check_held_out(files.resolve(data.held_out_store), manifest)
    _check_captions_apart(config, path)
    if data.reference is not None:
        draws_check.check_draws(config, tuple(counts.values()))
    return manifest, counts


def about(pairs: int, is_estimate: bool) -> str:
    """Write a number of pairs; of a set that is not encoded yet it is an estimate, and says so."""
    return f"about {pairs:,}" if is_estimate else f"{pairs:,}"


def refuse_few(config: TrainConfig, decided: int, is_estimate: bool = False) -> None:
    """Refuse a set of fewer pairs than a step takes.

    Raises:
        UserError: naming the store.
    """
    data = config.data
    if decided < data.global_batch:
        raise UserError(
            f"--store {data.store}: {about(decided, is_estimate)} labelled pairs to train on, fewer than one "
            f"--global-batch of {data.global_batch}; give more pairs, or a smaller batch"
        )


def _bucket_counts(path: str, manifest: store.Manifest, labels: str, share: float) -> dict[int, int]:
    """Count the pairs of decided_pairs by their bucket's place; buckets without any are left out."""
    table = tables.read([labels], ["pair_id", "label_0"])
    decided = table["pair_id"].to_numpy()[_decided(table)]
    if share:
        decided = np.setdiff1d(decided, hold_out.of_store(path, share))
    kept = tables.read(store.files_of(path, manifest, store.KEPT), ["pair_id", *schemas.SIDES])
    rows = kept.filter(pa.array(np.isin(kept["pair_id"].to_numpy(), decided)))
    sides = np.stack([rows[name].to_numpy() for name in schemas.SIDES], axis=1)
    places, counts = np.unique(schemas.bucket_places(sides, manifest.buckets), return_counts=True)
    return dict(zip(places.tolist(), counts.tolist(), strict=True))


def _check_buckets(config: TrainConfig, manifest: store.Manifest, decided: Mapping[int, int]) -> None:
    """Refuse batches that buckets cannot fill, and name the buckets too small for a micro-batch.

    Args:
        decided: pairs of each bucket, by its place.
    """
    data = config.data
    counts = tuple(decided.values())
    size = data.global_batch
    worlds = range(config.min_workers or config.workers, config.workers + 1)
    uneven = [world for world in worlds if world < size < 2 * world]
    if uneven and len(counts) > 1:
        raise UserError(
            f"--global-batch {size}: of {uneven[0]} workers some would have one pair, and others two of different "
            f"shapes, which take two passes; give --global-batch {2 * config.workers}"
        )
    if steps_an_epoch(counts, size, data.micro_batch) == 0:
        raise UserError(
            f"--store {data.store}: its {len(counts)} buckets fill micro-batches of {data.micro_batch} with "
            f"{usable(counts, data.micro_batch)} pairs, fewer than one --global-batch of {size}; give a smaller "
            "--micro-batch or --global-batch"
        )
    small = {manifest.buckets[place]: count for place, count in decided.items() if count < data.micro_batch}
    if small and len(counts) > 1:
        named = ", ".join(f"{width}x{height} has {count}" for (height, width), count in small.items())
        logs.LOGGER.warning(
            f"--micro-batch {data.micro_batch}: {sum(small.values())} of {sum(counts)} pairs are never trained on, as "
            f"their buckets have too few to fill it ({named}); a smaller micro-batch takes them in"
        )


@functools.lru_cache(maxsize=4)
def decided_pairs(path: str, labels: str, _labels_hash: str, share: float) -> int:
    """Count the pairs of a store that a label set decides and that are not held out.

    Args:
        labels: the label set's file. Its hash is part of the key of this function's cache.
        share: of the captions that are held out.
    """
    table = tables.read([labels], ["pair_id", "label_0"] if share else ["label_0"])
    decided = _decided(table)
    if share:
        decided &= ~np.isin(table["pair_id"].to_numpy(), hold_out.of_store(path, share))
    return int(decided.sum())


def fit_batch(config: TrainConfig) -> TrainConfig:
    """Let a global and micro-batch that are too large for the set follow it, and say so."""
    check_flags(config)
    data = config.data
    path = files.resolve(data.store)
    if not files.exists(files.join(path, store.MANIFEST)) or data.labels not in label_files.label_sets(path):
        return config  # a finished run needs neither; who needs them refuses
    labels = label_files.find_labels(path, data.labels)
    decided = decided_pairs(path, *labels, data.hold_out)
    if decided >= data.global_batch:
        return config
    manifest = store.read_manifest(path)
    buckets = _bucket_counts(path, manifest, labels[0], data.hold_out) if manifest.buckets else {0: decided}
    return fit_to(config, tuple(buckets.values()))


def fit_to(config: TrainConfig, counts: Sequence[int], is_estimate: bool = False) -> TrainConfig:
    """Let a global and micro-batch that are too large for so many pairs follow them, and say so.

    Args:
        counts: pairs to train on, of each bucket.
        is_estimate: whether the set is not encoded yet.
    """
    data = config.data
    decided = sum(counts)
    if decided >= data.global_batch or decided < config.workers:
        return config
    global_batch, micro_batch = _filled_batch(counts, data.micro_batch, config.workers)
    where = "one worker" if config.workers == 1 else f"each of {config.workers} workers"
    print(
        f"--global-batch {data.global_batch}: the set has {about(decided, is_estimate)} pairs to train on, so a step "
        f"takes {global_batch} of them, {micro_batch} at once on {where}; another number of --workers may give "
        "another batch",
        flush=True,
    )
    return replace(config, data=replace(data, global_batch=global_batch, micro_batch=micro_batch))


def _filled_batch(counts: Sequence[int], micro_batch: int, workers: int) -> tuple[int, int]:
    """Return the global batch that a small set fills, and its micro-batch.

    Pairs of a bucket that fills no micro-batch are never trained on. A few of them are given up for a larger one.

    Args:
        counts: pairs of each bucket, together at least one for each worker.
        micro_batch: the largest that is taken.
    """
    total = sum(counts)
    for size in range(min(micro_batch, total // workers), 1, -1):
        global_batch = usable(counts, size) // workers // size * size * workers
        given_up = sum(count for count in counts if count < size)
        if global_batch and given_up <= GIVEN_UP * total:
            return global_batch, size
    return total // workers * workers, 1


def check_config(config: TrainConfig) -> TrainConfig:
    """Check the settings of a run, and return them with its models at the commits that every worker shall load.

    Raises:
        UserError: naming the flag that does not fit.
    """
    manifest, counts = check_settings(config)
    decided = sum(counts.values())
    seen = health.visits(config, config.steps, decided)
    if seen > health.MANY_VISITS and config.data.held_out_store is None and not config.data.hold_out:
        logs.LOGGER.warning(
            f"--steps {config.steps}: each of the {decided:,} pairs is seen {seen:.0f} times and none is held out, so "
            "nothing will show whether the policy learns them by heart; give --hold-out 0.1, or fewer steps"
        )
    stated.refuse(config.start.folder(()))
    from training.run.model_check import check_models  # slow to import; what needs no model is refused by now

    return check_models(config, manifest)


def _decided(labels: pa.Table) -> npt.NDArray[np.bool_]:
    """Say for each row whether it names a winner; numpy's isin would sort a million of them first."""
    label = tables.floats(labels["label_0"])  # a null is NaN
    return (label == 0.0) | (label == 1.0)


def _check_probabilities(config: TrainConfig, path: str) -> None:
    """Refuse soft labels where a pair that the label set decides has no probability."""
    labels = tables.read([label_files.find_labels(path, config.data.labels)[0]], ["label_0", "probability_0"])
    decided = _decided(labels)
    probability = labels["probability_0"].to_numpy()[decided]
    lacking = int((~((probability >= 0) & (probability <= 1))).sum())
    if lacking:
        raise UserError(
            f"--objective soft: --labels {config.data.labels} has no probability_0 from 0 to 1 for {lacking} of "
            f"{decided.sum()} labelled pairs; make a label set with relabel.py --label soft"
        )


def _check_held_out(path: str, manifest: store.Manifest) -> None:
    """Refuse held-out pairs that were encoded otherwise than those that are trained on."""
    apart = store.read_manifest(path)
    if apart.buckets != manifest.buckets:
        raise UserError(
            f"--held-out-store {path}: its pairs have {_shapes(apart)}, and those of --store {_shapes(manifest)}; "
            "encode both with the same --resolution and --buckets"
        )
    if apart.latent_shape != manifest.latent_shape:
        raise UserError(f"--held-out-store {path}: its latents are {apart.latent_shape}, here {manifest.latent_shape}")
    if apart.embeddings != manifest.embeddings:
        raise UserError(f"--held-out-store {path}: its captions were encoded with another --max-tokens")
    store.verify(path, apart)


def _shapes(manifest: store.Manifest) -> str:
    """Name the shapes of a store's images, width x height."""
    sides = manifest.buckets or ((manifest.resolution, manifest.resolution),)
    return "the shape" + ("s " if len(sides) > 1 else " ") + ", ".join(f"{width}x{height}" for height, width in sides)


def _check_captions_apart(config: TrainConfig, path: str) -> None:
    """Refuse held-out pairs and validation captions that are trained on: their figures would flatter the model."""
    held_out = config.data.held_out_store
    prompts = config.validation.validation_prompts
    if held_out:
        shared = len(np.intersect1d(_prompt_ids(path), _prompt_ids(files.resolve(held_out))))
        if shared:
            raise UserError(
                f"--held-out-store {held_out}: {shared} of its captions are in --store too; set pairs apart by "
                "caption, for example with --hold-out 0.1 in its place"
            )
    if prompts:
        ids = [pairs.prompt_id(caption) for caption in read_prompts(files.resolve(prompts))]
        shared = int(np.isin(np.unique(ids), _prompt_ids(path)).sum())
        if shared:
            raise UserError(
                f"--validation-prompts {prompts}: {shared} of its captions are in --store too; take them out, or give "
                "the file as --sample-prompts, whose images are not judged"
            )


def _prompt_ids(path: str) -> npt.NDArray[np.int64]:
    """Read the ids of a store's captions but the empty one."""
    stored = store.files_of(path, store.read_manifest(path), "prompts")
    ids = tables.read(stored, ["prompt_id"])["prompt_id"].to_numpy()
    return ids[ids != pairs.prompt_id("")]
