"""Turn raw pairs into a latent store: `ray job submit -- python pipelines/encode_latents.py`.

Two checkpointed passes: pairs (check, decode, VAE), then captions (text encoder, once per unique caption). The same
command again finishes what is missing, and does nothing to a finished store. `--dry-run` prints what it would take.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import torch

from infra import cli, dry_run, files, models
from infra.dry_run import DryRunConfig
from infra.errors import UserError
from pipelines import encode_plan, encoders, engine, pairs, source, store

WORLD = "infra/world"


@dataclass(frozen=True)
class EncodeConfig:
    """Flags of the encoder. The first group decides what the store holds; the second only how fast."""

    source: str = f"{WORLD}/pairs"
    """Raw pairs: a Parquet folder or file, local, s3:// or hf://, or a datasets name."""
    split: str = "train"
    """Split of a datasets name."""
    model: str = f"{WORLD}/model"
    """A diffusers folder or Hub name; its VAE and text encoder are used."""
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
    """Of the encoders' arithmetic. SDXL's own VAE overflows in float16."""

    encoders: int = 0
    """Copies of the VAE; 0: one per GPU, or one where there is none."""
    gpus_per_encoder: float | None = None
    """By default 1 where the cluster has GPUs, else 0."""
    batch_size: int = 32
    """Pairs per VAE batch. It moves the latents' last bits, so a store is finished with the one it was begun with."""
    rows_per_file: int = 256
    """Rows per block and file: what a killed run may lose, per copy of the VAE."""


PRESETS = {
    "sd15": EncodeConfig(
        model="stable-diffusion-v1-5/stable-diffusion-v1-5", resolution=512, batch_size=16, rows_per_file=1024
    ),
}
SPEED_FLAGS = ("encoders", "gpus_per_encoder", "rows_per_file", "store")


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
    fingerprints: Mapping[str, str]
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
    if files.exists(files.join(destination, store.MANIFEST)):
        finished = store.read_manifest(destination)
        _refuse_other_settings(destination, dict(finished.config), config)
        store.verify(destination, finished)
        print(f"{destination}: already finished, nothing to do\n{table(finished)}", flush=True)
        return
    with store.writer_lock(destination):
        plan = make_plan(config, destination)
        started = time.perf_counter()
        engine.connect()
        encode_pairs(plan)
        encode_captions(plan)
        manifest = summarise(plan)
        store.publish(destination, manifest)
    seconds = time.perf_counter() - started
    print(f"{destination}\n{table(manifest, seconds, plan.written_before)}", flush=True)


def make_plan(config: EncodeConfig, destination: str) -> Plan:
    """Check every input before Ray starts, and note the settings that an unfinished store goes on with."""
    sources = source.parquet_files(config.source, config.split)
    dataset = source.open_source(sources)
    source.all_pair_ids(dataset)
    model = models.Model(config.model, config.revision).pinned(store.FROZEN)
    folder = model.folder(store.FROZEN)
    vae = encoders.vae_config(folder)
    resolution = choose_resolution(config, folder, vae)
    fingerprints = {name: models.fingerprint(folder, name) for name in store.FROZEN}
    settings = files.join(destination, store.WORK, "config.json")
    if files.exists(settings):
        _refuse_other_settings(destination, files.read_json(settings), config, fingerprints)
    files.write_json(settings, asdict(config) | {"fingerprints": fingerprints})
    before = engine.finished_rows(files.join(destination, store.WORK, "pairs_done"))
    return Plan(config, model, folder, destination, sources, dataset, resolution, vae, fingerprints, before)


def choose_resolution(config: EncodeConfig, folder: Path, vae: Mapping[str, Any]) -> int:
    """Return the side of the images in pixels: as asked for, or what the model was made for.

    Raises:
        UserError: if the VAE cannot halve it as often as it does.
    """
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    resolution = config.resolution or models.component_config(folder, "unet")["sample_size"] * factor
    if resolution % factor:
        raise UserError(f"--resolution {resolution}: not a multiple of {factor}, the VAE's step")
    return int(resolution)


def print_plan(config: EncodeConfig, asked: DryRunConfig) -> None:
    """Print what an encoding would take, from the source's labels and captions and the models' settings.

    Raises:
        UserError: if the settings do not fit, or the store was begun with others.
    """
    destination = files.resolve(config.store)
    for path in (files.join(destination, store.MANIFEST), files.join(destination, store.WORK, "config.json")):
        if files.exists(path):
            told = files.read_json(path)
            _refuse_other_settings(destination, told.get("config", told), config)
    dataset = source.open_source(source.parquet_files(config.source, config.split))
    folder = models.Model(config.model, config.revision).folder(())
    vae = encoders.vae_config(folder)
    resolution = choose_resolution(config, folder, vae)
    stored = encode_plan.Stored(encoders.latent_shape(vae, resolution), config.posterior, config.flip)
    rows = encode_plan.plan_rows(
        stored,
        asked,
        encode_plan.read_source(dataset, config.strict_labels),
        encode_plan.count_networks(folder, resolution, config.batch_size, getattr(torch, config.dtype)),
        copies=max(1, config.encoders),
        dtype=config.dtype,
    )
    print(dry_run.table(rows), flush=True)


def _refuse_other_settings(
    destination: str, before: dict[str, Any], config: EncodeConfig, fingerprints: Mapping[str, str] | None = None
) -> None:
    now = asdict(config) | ({"fingerprints": fingerprints} if fingerprints else {})
    differing = [name for name in now if name not in SPEED_FLAGS and before.get(name) != now[name]]
    if differing:
        told = "; ".join(f"{name} was {before.get(name)!r}, now {now[name]!r}" for name in differing)
        raise UserError(f"{destination} was begun with other settings ({told}); give another --store")


def _gpus(config: EncodeConfig) -> float:
    """Return the share of a GPU that each encoder takes."""
    if config.gpus_per_encoder is not None:
        return config.gpus_per_encoder
    return 1.0 if engine.device_count() else 0.0


def encode_pairs(plan: Plan) -> None:
    """Run the first pass: raw rows to pairs/, partitioned by status."""
    config = plan.config
    copies = config.encoders or max(1, engine.device_count())
    check = {"resolution": plan.resolution, "strict_labels": config.strict_labels}
    encode = {
        "model": plan.model,
        "resolution": plan.resolution,
        "posterior": config.posterior,
        "flip": config.flip,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "dtype": config.dtype,
    }
    engine.run(
        engine.Job(
            source=plan.sources,
            columns=source.columns_to_read(plan.dataset),
            steps=[
                engine.Step(encoders.CheckAndDecode, check, batch_size=config.batch_size),
                engine.Step(encoders.LatentEncoder, encode, config.batch_size, copies, gpus=_gpus(config)),
            ],
            output=files.join(plan.destination, "pairs"),
            checkpoint=plan.work("pairs_done"),
            id_column="pair_id",
            row_ids=pairs.pair_ids,
            rows_per_block=config.rows_per_file,
            name="pairs",
            rows=plan.dataset.count_rows(),
            partition_by="status",
        )
    )


def encode_captions(plan: Plan) -> None:
    """Run the second pass: the kept pairs' unique captions, and the empty one, to prompts/."""
    wanted = set(kept_prompt_ids(plan)) | {pairs.prompt_id("")}
    found = dict(source.captions_of(plan.dataset, wanted)) | {pairs.prompt_id(""): ""}
    captions = pa.table(
        {"prompt_id": pa.array(sorted(found), pa.int64()), "caption": [found[key] for key in sorted(found)]}
    )
    # Checkpointing holds for sources read from files only, so the captions become one first.
    files.write_table(plan.work("captions.parquet"), captions)
    config = plan.config
    encode = {"model": plan.model, "batch_size": config.batch_size, "dtype": config.dtype}
    engine.run(
        engine.Job(
            source=[plan.work("captions.parquet")],
            columns=["prompt_id", "caption"],
            steps=[engine.Step(encoders.CaptionEncoder, encode, config.batch_size, actors=1, gpus=_gpus(config))],
            output=files.join(plan.destination, "prompts"),
            checkpoint=plan.work("prompts_done"),
            id_column="prompt_id",
            row_ids=_prompt_ids,
            rows_per_block=8 * config.rows_per_file,
            name="captions",
            rows=captions.num_rows,
        )
    )


def _prompt_ids(table: pa.Table) -> np.ndarray[Any, np.dtype[np.int64]]:
    return table["prompt_id"].to_numpy()


def kept_prompt_ids(plan: Plan) -> list[int]:
    """List the captions of the kept pairs, each once.

    Raises:
        UserError: if no pair was kept.
    """
    folder = files.join(plan.destination, "pairs", "status=kept")
    filesystem, _ = files.open_filesystem(folder)
    paths = [files.open_filesystem(path)[1] for path in files.list_files(folder, ".parquet")]
    if not paths:
        reasons = files.join(plan.destination, "pairs", "status=quarantined")
        raise UserError(f"--source {plan.config.source}: no pair was kept; {reasons} says why")
    rows = pads.dataset(paths, filesystem=filesystem, format="parquet").to_table(columns=["prompt_id"])
    return rows["prompt_id"].unique().to_pylist()


def summarise(plan: Plan) -> store.Manifest:
    """Count and hash the stored rows, write the human label set, and make the manifest.

    Raises:
        UserError: if the stored rows are not exactly the source's.
    """
    paths = files.list_files(files.join(plan.destination, "pairs"), ".parquet")
    prompts = files.list_files(files.join(plan.destination, "prompts"), ".parquet")
    described = dict(zip(paths + prompts, engine.map_files(store.describe_file, paths + prompts), strict=True))
    filesystem, _ = files.open_filesystem(plan.destination)
    inner = [files.open_filesystem(path)[1] for path in paths]
    rows = pads.dataset(inner, filesystem=filesystem, format="parquet", partitioning="hive").to_table(
        columns=["pair_id", "label_0", "stage", "reason", "contradicts", "status"]
    )
    status = np.array(rows["status"].to_pylist())
    stages = np.array(rows["stage"].to_pylist(), object)
    refused = status == "quarantined"
    counts = store.Counts(
        rows_in=plan.dataset.count_rows(),
        ties=int((status == "tie").sum()),
        invalid=int((refused & (stages == "label")).sum()),
        quarantined=int(refused.sum()),
        kept=int((status == "kept").sum()),
        contradicting=int(pc.sum(rows["contradicts"]).as_py() or 0),
        prompts=len(kept_prompt_ids(plan)),
    )
    if rows.num_rows != counts.rows_in or len(rows["pair_id"].unique()) != counts.rows_in:
        raise UserError(
            f"{plan.destination}: {rows.num_rows} rows stored for {counts.rows_in} in the source; "
            "the source changed while it was encoded: give another --store"
        )
    reasons: dict[str, int] = {}
    for stage, reason in zip(stages[refused], np.array(rows["reason"].to_pylist(), object)[refused], strict=True):
        reasons[f"{stage}: {reason}"] = reasons.get(f"{stage}: {reason}", 0) + 1
    kept = rows.filter(pa.array(status == "kept"))
    nulls = pa.nulls(kept.num_rows, pa.float32())
    human = [kept["pair_id"], nulls, nulls, kept["label_0"], nulls]
    labels = pa.table(
        [column.cast(t) for column, t in zip(human, store.LABELS_SCHEMA.types, strict=True)], schema=store.LABELS_SCHEMA
    )
    store.write_labels(plan.destination, "human", labels, {"scorer": "human", "source": plan.config.source})
    return _manifest(plan, counts, reasons, described)


def _manifest(
    plan: Plan, counts: store.Counts, reasons: dict[str, int], described: dict[str, dict[str, Any]]
) -> store.Manifest:
    names = {path: path.removeprefix(plan.destination + "/") for path in described}
    trained_on = [path for path, name in names.items() if name.startswith(("pairs/status=kept/", "prompts/"))]
    content = sum(int(described[path]["digest"], 16) for path in trained_on)
    filesystem, inner = files.open_filesystem(next(p for p in trained_on if names[p].startswith("prompts/")))
    size = pq.read_schema(inner, filesystem=filesystem).field("text_encoder").type.list_size
    width = int(models.component_config(plan.folder, "text_encoder")["hidden_size"])
    return store.Manifest(
        source=plan.config.source,
        model=plan.config.model,
        fingerprints=plan.fingerprints,
        resolution=plan.resolution,
        latent_shape=plan.latent_shape,
        scaling_factor=plan.vae["scaling_factor"],
        shift_factor=plan.vae["shift_factor"] or 0.0,
        posterior=plan.config.posterior,
        flip=plan.config.flip,
        embeddings={"text_encoder": (size // width, width)},
        counts=counts,
        reasons=dict(sorted(reasons.items())),
        content_hash=f"{content % (1 << 128):032x}",
        config=asdict(plan.config),
        files={
            names[path]: {k: v for k, v in about.items() if k != "digest"} for path, about in sorted(described.items())
        },
    )


def table(manifest: store.Manifest, seconds: float | None = None, written_before: int = 0) -> str:
    """Lay out what was done, for the terminal; a resumed run's speed counts the rows that it wrote itself."""
    counts = asdict(manifest.counts)
    size = sum(int(about["bytes"]) for about in manifest.files.values())
    lines = [(name.replace("_", " "), f"{value:,}") for name, value in counts.items()]
    lines += [(f"  {reason}", f"{count:,}") for reason, count in manifest.reasons.items()]
    if seconds is not None:
        share = 1 - written_before / manifest.counts.rows_in
        lines += [("seconds", f"{seconds:,.1f}"), ("images/s", f"{2 * manifest.counts.kept * share / seconds:,.1f}")]
    lines.append(("bytes", f"{size:,}"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"  {name:<{width}}  {value:>14}" for name, value in lines)


if __name__ == "__main__":
    cli.run(main, EncodeConfig, PRESETS, plan=print_plan)
