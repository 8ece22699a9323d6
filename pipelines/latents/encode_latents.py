"""Turn raw pairs into a latent store: `ray job submit -- python pipelines/encode_latents.py`.

Two checkpointed passes: pairs (check, decode, VAE), then captions (text encoder, once per unique caption). The same
command again finishes what is missing, and does nothing to a finished store. `--dry-run` prints what it would take.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from infra.base import dry_run, files, metrics, models, object_storage
from infra.base.config_files import save_config
from infra.base.dry_run import DryRunConfig
from infra.base.errors import UserError
from pipelines.engine import on_ray, progress
from pipelines.engine.jobs import SMALL_CPUS, Job, Step
from pipelines.latents import (
    captions,
    encode_plan,
    encoders,
    identity,
    kinds,
    repair,
    store,
    weight_files,
)
from pipelines.latents.encode_config import EncodeConfig, check_numbers, refuse_other_settings, store_identity
from pipelines.latents.safety import Filter, make_filter
from pipelines.latents.summary import kept_prompt_ids, refuse_spoilt_source, summarise, table
from pipelines.raw import contents, pairs, source

CAPTION_BYTES = 1 << 28  # of one block's embeddings; FLUX's are 4 MiB a caption


@dataclass(frozen=True)
class Plan:
    """Everything known before Ray starts."""

    config: EncodeConfig
    model: models.Model
    folder: Path  # of the model, on the driver
    destination: str
    sources: list[str]
    dataset: source.RawTable
    resolution: int
    vae: Mapping[str, Any]
    embeddings: captions.Shapes
    fingerprints: Mapping[str, str]
    filter: Filter
    written_before: int  # rows that earlier runs finished
    source_files: contents.Noted  # what the source's files hold

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of a latent."""
        return encoders.latent_shape(self.vae, self.resolution)

    def work(self, *parts: str) -> str:
        """Return a path among the work files."""
        return files.join(self.destination, store.WORK, *parts)


def main(config: EncodeConfig) -> None:
    """Turn raw pairs into a latent store: check, decode, VAE- and text-encode each pair and caption once."""
    destination = files.resolve(config.store)
    object_storage.check("--store", destination)
    if files.exists(files.join(destination, store.MANIFEST)):
        if not _to_repair(config, destination):
            return
    elif not files.exists(files.join(destination, store.WORK)) and store.holds_pairs(destination):
        raise UserError(
            f"{destination}: has pairs, but neither manifest.json nor a record of progress; "
            "restore manifest.json from a copy, or give another --store"
        )
    with store.writer_lock(destination) as still_held:
        plan = make_plan(config, destination)
        noted = store_identity(config, plan.filter) | {"fingerprints": plan.fingerprints}
        files.write_json(plan.work(store.SOURCE), plan.source_files)
        files.write_json(plan.work("config.json"), noted)
        started = time.perf_counter()
        on_ray.connect()
        encode_pairs(plan)
        encode_captions(plan)
        manifest = summarise(plan)
        repaired = repair.compared(destination, manifest)
        still_held()
        if not config.repair:
            save_config(destination, config)
        store.publish(destination, manifest)
    seconds = time.perf_counter() - started
    print(f"{destination}\n{table(manifest, seconds, plan.written_before)}", flush=True)
    if repaired:
        print(f"{destination}: {repaired}", flush=True)


def _to_repair(config: EncodeConfig, destination: str) -> bool:
    """Say whether a finished store was reopened, to have its lost rows computed again; else it needs nothing."""
    finished = store.read_manifest(destination)
    before = {**finished.config, **finished.safety}
    refuse_other_settings(destination, before, config, make_filter(config.safety))
    if config.repair and (lost := repair.damaged(destination, finished)):
        plan = make_plan(config, destination)  # what it would refuse is refused while the store is whole
        known = before | {"fingerprints": dict(finished.fingerprints)}
        refuse_other_settings(destination, known, config, plan.filter, plan.fingerprints)
        _refuse_changed_source(config, destination, finished.source_files, plan.source_files)
        store.refuse_unknown_files(destination, finished.files)
        store.refuse_unknown_files(files.join(destination, repair.HUMAN), store.LABELS_FILES)
        with store.writer_lock(destination):
            rows = repair.reopen(destination, finished, lost)
        print(f"{destination}: {', '.join(lost)} lost; {rows:,} rows are computed again", flush=True)
        return True
    _refuse_finished_from_another(config, destination, finished)
    store.verify(destination, finished)
    print(f"{destination}: already finished, nothing to do\n{table(finished)}", flush=True)
    return False


def make_plan(config: EncodeConfig, destination: str) -> Plan:
    """Check every input before Ray starts, and against the settings that an unfinished store goes on with."""
    check_numbers(config)
    sources = source.parquet_files(config.source, config.split)
    dataset = source.open_source(sources)
    source_files = contents.contents_of(config.source, sources)
    noted = files.join(destination, store.WORK, store.SOURCE)
    if files.exists(noted):
        _refuse_changed_source(config, destination, files.read_json(noted), source_files)
    source.all_pair_ids(dataset)
    named = models.Model(config.model, config.revision)
    settings = named.folder(())
    tokens = kinds.t5_tokens(settings, config.max_tokens)
    frozen = kinds.kind_of(settings).frozen(with_t5=bool(tokens))
    weight_files.check_folder(settings, ())
    model = named.pinned(frozen)
    folder = model.folder(frozen)
    weight_files.check_weights(folder, frozen)
    vae = encoders.vae_config(folder)
    resolution = choose_resolution(config, folder, vae)
    fingerprints = _fingerprints(folder, frozen, destination)
    embeddings = captions.embedding_shapes(folder, tokens)
    begun, chosen = files.join(destination, store.WORK, "config.json"), make_filter(config.safety)
    if files.exists(begun):
        refuse_other_settings(destination, files.read_json(begun), config, chosen, fingerprints)
    before = progress.finished_rows(files.join(destination, store.WORK, "pairs_done"))
    known = (resolution, vae, embeddings, fingerprints)
    return Plan(config, model, folder, destination, sources, dataset, *known, chosen, before, source_files)


def _refuse_changed_source(config: EncodeConfig, destination: str, before: contents.Noted, now: contents.Noted) -> None:
    told = f"--source {config.source}, from which {destination} was begun"
    contents.refuse_changed(before, now, told, f"{contents.REMEDY} --store")


def _refuse_finished_from_another(config: EncodeConfig, destination: str, finished: store.Manifest) -> None:
    """Refuse to call a store finished whose source holds something else by now; one whose source is gone is."""
    if not finished.source_files:
        return
    try:
        now = contents.contents_of(config.source, source.parquet_files(config.source, config.split))
    except (UserError, OSError):  # a finished store does not need its source any more
        return
    _refuse_changed_source(config, destination, finished.source_files, now)


def _fingerprints(folder: Path, frozen: Sequence[str], destination: str) -> dict[str, str]:
    """Return the frozen parts' fingerprints, by the rule that the store was begun with."""
    notes = (store.MANIFEST, f"{store.WORK}/config.json")
    found = [files.read_json(path) for path in (files.join(destination, note) for note in notes) if files.exists(path)]
    begun: Mapping[str, str] = next((note["fingerprints"] for note in found if note.get("fingerprints")), {})
    if not any(identity.is_old(value) for value in begun.values()):
        return identity.fingerprints(folder, frozen)
    identity.say_once(destination)
    return {name: models.fingerprint(folder, name) for name in frozen}


def choose_resolution(config: EncodeConfig, folder: Path, vae: Mapping[str, Any]) -> int:
    """Return the side of the images in pixels: as asked for, or what the model was made for.

    Raises:
        UserError: if VAE and network cannot cut it evenly, or the VAE normalises latents by more than two numbers.
    """
    step = kinds.pixels_per_latent(folder) * kinds.kind_of(folder).patch
    resolution = config.resolution or kinds.native_resolution(folder)
    if resolution % step:
        raise UserError(f"--resolution {resolution}: not a multiple of {step}, the model's step")
    if vae.get("latents_mean") is not None:
        raise UserError(f"--model {config.model}: its VAE has a mean per channel, which no known pipeline here uses")
    return resolution


def print_plan(config: EncodeConfig, asked: DryRunConfig) -> None:
    """Print what an encoding would take, from the source's labels and captions and the models' settings.

    Raises:
        UserError: if the settings do not fit, or the store was begun with others.
    """
    destination, chosen = files.resolve(config.store), make_filter(config.safety)
    for path in (files.join(destination, store.MANIFEST), files.join(destination, store.WORK, "config.json")):
        if files.exists(path):
            told = files.read_json(path)
            refuse_other_settings(destination, told.get("config", told) | told.get("safety", {}), config, chosen)
    dataset = source.open_source(source.parquet_files(config.source, config.split))
    folder = models.Model(config.model, config.revision).folder(())
    weight_files.check_folder(folder, ())
    tokens = kinds.t5_tokens(folder, config.max_tokens)
    vae = encoders.vae_config(folder)
    resolution = choose_resolution(config, folder, vae)
    stored = encode_plan.Stored(encoders.latent_shape(vae, resolution), config.posterior, config.flip)
    rows = encode_plan.plan_rows(
        stored,
        asked,
        encode_plan.read_source(dataset, config.strict_labels, chosen.blocklist),
        encode_plan.count_networks(
            folder, resolution, tokens, config.batch_size, getattr(torch, config.dtype), chosen.checker
        ),
        copies=max(1, config.encoders),
        dtype=config.dtype,
    )
    print(dry_run.table(rows), flush=True)


def _gpus(config: EncodeConfig) -> float:
    """Return the share of a GPU that each encoder takes."""
    if config.gpus_per_encoder is not None:
        return config.gpus_per_encoder
    return 1.0 if on_ray.device_count() else 0.0


def _decode_cpus(config: EncodeConfig) -> float:
    """Return the cores that a decoding task takes: one, or without GPUs the VAE's share, so that Ray fuses the two."""
    if config.cpus_per_decode_task is not None:
        return config.cpus_per_decode_task
    return 1.0 if on_ray.device_count() else SMALL_CPUS


def encode_pairs(plan: Plan) -> None:
    """Run the first pass: raw rows to pairs/, partitioned by status."""
    config = plan.config
    copies = config.encoders or max(1, on_ray.device_count())
    check = {
        "resolution": plan.resolution,
        "strict_labels": config.strict_labels,
        "blocklist": plan.filter.blocklist,
    }
    encode = {
        "model": plan.model,
        "resolution": plan.resolution,
        "posterior": config.posterior,
        "flip": config.flip,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "checker": plan.filter.checker,
    }
    on_ray.run(
        Job(
            source=plan.sources,
            columns=source.columns_to_read(plan.dataset),
            steps=[
                Step(
                    encoders.CheckAndDecode,
                    check,
                    batch_size=config.batch_size,
                    tasks=config.decode_tasks or None,
                    cpus=_decode_cpus(config),
                ),
                Step(
                    encoders.LatentEncoder,
                    encode,
                    config.batch_size,
                    copies,
                    least=config.min_encoders or None,
                    gpus=_gpus(config),
                    accelerator=config.accelerator_type,
                ),
            ],
            output=files.join(plan.destination, "pairs"),
            checkpoint=plan.work("pairs_done"),
            id_column="pair_id",
            row_ids=pairs.pair_ids,
            rows_per_block=config.rows_per_file,
            name="pairs",
            rows=plan.dataset.count_rows(),
            partition_by="status",
            may_go_on=lambda: refuse_spoilt_source(plan),
            counts=metrics.encoded,
            read=source.read_pieces,
        )
    )
    refuse_spoilt_source(plan)


def encode_captions(plan: Plan) -> None:
    """Run the second pass: the kept pairs' unique captions, and the empty one, to prompts/.

    Raises:
        UserError: if the source no longer has a kept pair's caption.
    """
    wanted = set(kept_prompt_ids(plan).tolist()) | {pairs.prompt_id("")}
    found = dict(source.captions_of(plan.dataset, wanted)) | {pairs.prompt_id(""): ""}
    if wanted - found.keys():
        raise UserError(
            f"{plan.destination}: the source lacks {len(wanted - found.keys())} captions of kept pairs; "
            "the source changed while it was encoded: give another --store"
        )
    texts = pa.table(
        {"prompt_id": pa.array(sorted(found), pa.int64()), "caption": [found[key] for key in sorted(found)]}
    )
    # Checkpointing holds for sources read from files only, so the captions become one first.
    files.write_table(plan.work("captions.parquet"), texts)
    config = plan.config
    encode = {
        "model": plan.model,
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "max_tokens": config.max_tokens,
    }
    caption_bytes = 2 * sum(math.prod(shape) for shape in plan.embeddings.values())
    on_ray.run(
        Job(
            source=[plan.work("captions.parquet")],
            columns=["prompt_id", "caption"],
            steps=[
                Step(
                    captions.CaptionEncoder,
                    encode,
                    config.batch_size,
                    actors=1,
                    gpus=_gpus(config),
                    accelerator=config.accelerator_type,
                )
            ],
            output=files.join(plan.destination, "prompts"),
            checkpoint=plan.work("prompts_done"),
            id_column="prompt_id",
            row_ids=_prompt_ids,
            rows_per_block=max(1, min(8 * config.rows_per_file, CAPTION_BYTES // caption_bytes)),
            name="captions",
            rows=texts.num_rows,
        )
    )


def _prompt_ids(table: pa.Table) -> np.ndarray[Any, np.dtype[np.int64]]:
    return table["prompt_id"].to_numpy()
