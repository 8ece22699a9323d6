"""The set of pairs that a trainer's dry run plans on: that of a store, or of one that is still to be encoded."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.base import dry_run, files
from infra.base.dry_run import DryRunConfig, Row
from pipelines.latents import encode_plan, planned, store
from pipelines.latents.addresses import index_bytes
from pipelines.latents.models_known import MODELS
from training.data.direct import is_addressable
from training.data.staging import staged_bytes
from training.method.order import steps_an_epoch, usable
from training.run import encode_source
from training.run.preflight import about, check_settings, fit_batch, fit_to, refuse_few
from training.settings.config import DataConfig, TrainConfig
from training.settings.flags import check_flags


@dataclass(frozen=True, kw_only=True)
class PlannedSet:
    """What is to be known of a set of pairs to plan with it."""

    manifest: store.Manifest
    counts: Mapping[int, int]  # pairs that the label set decides, by the place of their bucket
    is_estimate: bool = False  # of a source: no image is decoded yet, and --hold-out is taken of the pairs


def find(config: TrainConfig, folder: Path, asked: DryRunConfig) -> tuple[TrainConfig, PlannedSet]:
    """Describe the set that a run would train on, and return the settings with batches that follow it.

    Args:
        folder: of the model's settings.

    Raises:
        UserError: if the settings do not fit each other or the store.
    """
    path = files.resolve(config.data.store)
    config = fit_batch(config)
    is_finished = files.exists(files.join(path, store.MANIFEST))
    is_there = path != files.resolve(DataConfig().store) or is_finished
    if config.data.source is not None and not is_finished:
        manifest = _of_source(config, folder, asked)
        trained_on = _trained_on(config, manifest)
        config = fit_to(config, (trained_on,), is_estimate=True)
        refuse_few(config, trained_on, is_estimate=True)
        return config, PlannedSet(manifest=manifest, counts={0: trained_on}, is_estimate=True)
    if is_there:
        manifest, counts = check_settings(config)
        return config, PlannedSet(manifest=manifest, counts=counts)
    manifest = _pick_a_pic(config, folder)
    return config, PlannedSet(manifest=manifest, counts={0: _trained_on(config, manifest)})


def _of_source(config: TrainConfig, folder: Path, asked: DryRunConfig) -> store.Manifest:
    """Print what the encoding of --source would take, and describe the store that it gives."""
    encode_source.check(config)
    encoder = encode_source.encoding(config)
    print(f"--source {encoder.source}: first it is encoded into --store {encoder.store}", flush=True)
    rows = encode_plan.print_plan(encoder, asked)
    print("then:", flush=True)
    return planned.planned_store(
        folder, encoder.resolution, encoder.max_tokens, rows.kept, rows.prompts, images=rows.encoded
    )


def _pick_a_pic(config: TrainConfig, folder: Path) -> store.Manifest:
    """Describe the store that a preset's encoding of Pick-a-Pic gives, and say that it is not there yet."""
    check_flags(config)
    print(f"--store {config.data.store}: is not there yet; one of Pick-a-Pic v2 is counted", file=sys.stderr)
    sides = (model.resolution for model in MODELS.values() if model.hub_name == config.model)
    return planned.planned_store(folder, next(sides, None), None, planned.PAIRS, planned.CAPTIONS)


def _trained_on(config: TrainConfig, manifest: store.Manifest) -> int:
    """Return about how many pairs of a planned store are trained on."""
    return manifest.counts.kept - round(config.data.hold_out * manifest.counts.kept)


def pair_rows(planned_on: PlannedSet, data: DataConfig) -> list[Row]:
    """Lay out how many pairs are trained on, and what of them buckets leave out."""
    counts = tuple(planned_on.counts.values())
    rows = [("pairs", f"{about(sum(counts), planned_on.is_estimate)} of --labels {data.labels}")]
    if planned_on.manifest.buckets:
        rows.append(("  buckets", _bucket_row(counts, data.global_batch, data.micro_batch)))
    return rows


def _bucket_row(counts: Sequence[int], global_batch: int, micro_batch: int) -> str:
    """Say how many buckets pairs are in, and how many an epoch leaves out where micro-batches and steps end."""
    in_pieces = usable(counts, micro_batch)
    taken = steps_an_epoch(counts, global_batch, micro_batch) * global_batch
    return (
        f"{len(counts)}; each epoch leaves out {sum(counts) - taken:,} pairs: {sum(counts) - in_pieces:,} fill no "
        f"micro-batch of one shape, and {in_pieces - taken:,} no step"
    )


def store_rows(manifest: store.Manifest) -> list[Row]:
    """Lay out the store's bytes, as its files have them."""

    def size(part: str) -> float:
        return sum(float(about["bytes"]) for name, about in manifest.files.items() if name.startswith(part))

    return [
        ("store", dry_run.gigabytes(size(""))),
        ("  embeddings and captions", dry_run.gigabytes(size("prompts/"))),
        ("kept on each node's disk", _kept_on_nodes(manifest)),
    ]


def _kept_on_nodes(manifest: store.Manifest) -> str:
    if not is_addressable(manifest):
        return f"{dry_run.gigabytes(staged_bytes(manifest))}, a copy, because this store has no index"
    return f"none, or of a store on S3 its index, {dry_run.gigabytes(index_bytes(manifest))}"


def held_out_pairs(config: TrainConfig, manifest: store.Manifest) -> int:
    """Return how many pairs are held out; of --hold-out about so many, as captions have unlike numbers of pairs.

    Args:
        manifest: of the store that is trained on, which may be planned only.
    """
    data = config.data
    if data.held_out_store:
        return store.read_manifest(files.resolve(data.held_out_store)).counts.kept
    return round(data.hold_out * manifest.counts.kept)
