"""A tiny folder of each kind, made by hand without a model, in two versions of different content."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image

from infra.base import copy_index, files, named_files
from infra.base.config_files import save_config
from infra.base.result_files import FACTS
from infra.faults import hands, hands_uses
from labelers.labels import label_set
from pipelines.arena_app import arena
from pipelines.arena_app.arena_votes import QUESTIONS, VOTES, Kept, VoteLog
from pipelines.drawing import gallery, image_flags, image_sets
from pipelines.engine import in_process
from pipelines.experiments import sweep_done
from pipelines.judging import score_files
from pipelines.latents import addresses, group_index, label_files, schemas, store
from training.checkpoints import checkpoint
from training.checkpoints.run_folder import ASSESSMENTS, ID, IDENTITY, RESULT, STEPS
from training.reference import reference_errors
from training.settings.config import TrainConfig

PAIRS = 4


def _described(folder: Path, tables: Mapping[str, pa.Table]) -> dict[str, dict[str, object]]:
    for name, table in tables.items():
        files.write_table(str(folder / name), table, {**schemas.WRITTEN_AS, "use_dictionary": ["caption"]})
    return {
        name: named_files.describe(str(folder), [name])[name] | {"rows": table.num_rows}
        for name, table in tables.items()
    }


def write_store(folder: Path, version: int) -> None:
    """Write a store with its human label set, a scorer's, and cached errors."""
    ids = np.arange(PAIRS)
    halves = _values(PAIRS, version)
    kept = pa.table({"pair_id": ids, "prompt_id": ids, "latents_0": halves, "latents_1": halves})
    described = _described(folder, {hands.KEPT: kept, hands.PROMPTS: _prompts(ids, version)})
    placed = {name: addresses.describe_file(str(folder / name))[1] for name in described}
    _publish(folder, version, described | addresses.write(str(folder), placed))
    _write_errors(folder, version, "pair")


def write_grouped(folder: Path, version: int) -> None:
    """Write a store of groups: one of PAIRS + version images, the first of which are in a pair with the next."""
    ids = np.arange(PAIRS)
    count = PAIRS + version
    same = np.full(PAIRS, version)
    named = {"pair_id": ids, "prompt_id": same, "group_id": same, "image_0_id": ids, "image_1_id": ids + 1}
    images = pa.table({"image_id": np.arange(count), "latents": _values(count, version)})
    kept = pa.table(named)
    tables = {hands.KEPT: kept, hands.PROMPTS: _prompts(np.full(1, version), version), hands.KEPT_IMAGES: images}
    described = _described(folder, tables)
    placed = {name: addresses.describe_file(str(folder / name))[1] for name in (hands.PROMPTS, hands.KEPT_IMAGES)}
    _publish(folder, version, described | group_index.write(str(folder), placed, kept), images=count)
    _write_errors(folder, version, "image")


def _values(rows: int, version: int) -> pa.Array:
    return schemas.value_lists(np.full((rows, 4), version, np.float16))


def _prompts(ids: npt.NDArray[np.int64], version: int) -> pa.Table:
    captions = [*(f"{version} {number}" for number in ids), ""]
    return pa.table({"prompt_id": [*ids, 99], "caption": captions, "embedding": _values(len(captions), version)})


def _publish(folder: Path, version: int, described: Mapping[str, Mapping[str, object]], images: int = 0) -> None:
    counts = store.Counts(
        rows_in=4, ties=0, invalid=0, quarantined=0, kept=4, contradicting=0, prompts=4, images=images
    )
    manifest = store.Manifest(
        source="raw", model="m", fingerprints={}, resolution=64, latent_shape=(4, 1, 1), scaling_factor=1.0,
        shift_factor=0.0, posterior="sample", flip=False, embeddings={}, counts=counts, reasons={},
        content_hash=f"content-{version}", config={}, files=described,
    )  # fmt: skip
    store.publish(str(folder), manifest)
    for name in ("human", "red"):
        _write_labels(folder, name, version)


def write_unfinished(folder: Path, version: int) -> None:
    """Write a store whose captions are encoded, in two blocks, and that is not published."""
    files.write_table(str(folder / store.WORK / "captions.parquet"), pa.table({"prompt_id": range(PAIRS)}))
    for number in range(2):
        rows = pa.table({"prompt_id": range(2 * number, 2 * number + 2)})
        step = hands_uses.Encoded(version)
        in_process._write(hands_uses.captions_job(folder), f"block_{number}", step(rows))


def _write_labels(folder: Path, name: str, version: int) -> None:
    scores = pa.array(np.full(PAIRS, 0.25 * version), pa.float32())
    labels = pa.array([0.0, 1.0, 0.0, float(version % 2)], pa.float32())
    columns = [np.arange(PAIRS), scores, scores, labels, pa.nulls(PAIRS, pa.float32())]
    if name != "human":
        lost = pa.table({"pair_id": [100 + version], "reason": ["none"]})
        files.write_table(label_set.refused_file(str(folder), name), lost)
    about = {"settings": {"scorer": name, "store_hash": f"content-{version}"}}
    label_files.write_labels(str(folder), name, pa.table(columns, schema=label_files.LABELS_SCHEMA), about)


def _write_errors(folder: Path, version: int, visited: Literal["pair", "image"]) -> None:
    rows = PAIRS if visited == "pair" else PAIRS + 1
    errors = [np.full(rows, version, np.float32)] * (2 if visited == "pair" else 1)
    schema = reference_errors.SCHEMA if visited == "pair" else reference_errors.IMAGES_SCHEMA
    draws = pa.table([np.arange(rows), np.zeros(rows, int), np.ones(rows, int), *errors], names=schema.names)
    name, about = reference_errors.write_draw(str(folder), "base", 0, draws)
    settings = reference_errors.Settings(
        network="n", store_hash=f"content-{version}", seed=0, caption_dropout=0.2, prediction_type="epsilon",
        schedule="h", batch_size=4, precision="float32",
    )  # fmt: skip
    manifest = reference_errors.Manifest(
        settings=settings, model="m", revision=None, draws=1, pairs=rows if visited == "pair" else 0, hardware=("CPU",),
        config={}, files={name: about}, images=rows if visited == "image" else 0,
    )  # fmt: skip
    reference_errors.write_manifest(str(folder), "base", manifest)


def write_images(folder: Path, version: int) -> None:
    """Write two images with the scores of one scorer and their judgement as a set."""
    drawn = [Image.new("RGB", (8, 8), (50 * version, 0, shade)) for shade in (10, 20)]
    wanted = image_sets.wanted_images(["a", "b"], 1, seed=version)
    image_sets.write_images(str(folder), image_sets.with_images(wanted, drawn), {"model": f"m{version}"})
    of = score_files.images_hash(str(folder))
    scores = wanted.select(score_files.KEYS).append_column("red", pa.array([0.1, 0.2 * version], pa.float32()))
    score_files.write_scores(str(folder), "red", scores, {"identity": {"scorer": "red", "fingerprint": "f", "of": of}})
    score_files.write_set(str(folder), {"identity": {"of": of}, "config": {"feature_model": "m"}, "judged": {"n": 2}})


def write_gallery(folder: Path, version: int) -> None:
    """Write two images, and the page and files that show them."""
    write_images(folder, version)
    gallery.write_gallery(*hands_uses.gallery_of(folder))


def write_flags(folder: Path, version: int) -> None:
    """Write two images of which a filter flagged one."""
    write_images(folder, version)
    identity = image_flags.flags_identity(str(folder), {"prompt_blocklist": "h"})
    about = {"identity": identity, "images": 2, "flagged": {str(version): "prompt: word list, line 1"}}
    image_flags.write_image_flags(str(folder), about)


def write_run(folder: Path, version: int) -> None:
    """Write a finished run of four steps: two checkpoints, notes, and a LoRA file as the result."""
    save_config(str(folder), TrainConfig(seed=version, output="run"))
    files.write_json(str(folder / IDENTITY), {ID: f"run-{version}"})
    for name, steps in ((STEPS, (1, 2, 3, 4)), (ASSESSMENTS, (0, 2, 4))):
        notes = [{ID: f"run-{version}", "step": step, "loss": version} for step in steps]
        (folder / name).write_text("".join(json.dumps(note) + "\n" for note in notes))
    for step in (2, 4):
        state = checkpoint.State(
            step=step, seed=version, global_batch=TrainConfig().data.global_batch, store_hash="s", labels_hash="l"
        )
        groups = {name: {"weight": torch.full((4,), float(version))} for name in ("network", "optimizer")}
        groups["optimizer"]["weight"] += step
        checkpoint.save(folder, state, groups)
    result = folder / "result"
    result.mkdir()
    (result / "pytorch_lora_weights.safetensors").write_bytes(bytes([version]) * 64)
    (result / "README.md").write_text("card")
    described = named_files.describe(str(result), ["README.md", "pytorch_lora_weights.safetensors"])
    files.write_json(str(result / FACTS), {"config": {"seed": version}, "train": {"steps": 4}, "files": described})


def write_cache(folder: Path, version: int) -> None:
    """Write a cache with one copy."""
    folder.mkdir(mode=0o700)
    hands_uses.use_cache(folder)
    if version > 1:
        np.save(folder / hands_uses.COPY / "numbers.npy", np.zeros(64))
        copy_index.write(folder / hands_uses.COPY)


def write_sweep(folder: Path, version: int) -> None:
    """Write a sweep of one trial, and the seconds of its parts."""
    facts = folder / "a" / "seed-0" / "train" / RESULT / FACTS
    files.write_json(str(facts), {"config": {}, "best_step": version})
    trial = {"name": "a", "seed": 0, "best_step": version, sweep_done.TRAINED: files.sha256(str(facts))}
    files.write_json(str(folder / sweep_done.DONE), {"schema_version": 1, "trials": [trial], "judges": ["red"]})
    files.write_json(str(folder / "seconds.json"), {"train": 1.0})


def write_arena(folder: Path, version: int) -> None:
    """Write an arena that was killed after two votes; the older one has as many, of other raters."""
    folder.mkdir()

    def note(kept: Kept) -> None:
        files.write_json(str(folder / arena.ARENA), {"identity": {"seed": version}, arena.KEPT: asdict(kept)})

    with contextlib.closing(VoteLog(str(folder / VOTES), note)) as log:
        for rater in ("ann", "bob" if version == 1 else "eve"):
            log.add(rater, 1, 0, dict.fromkeys(QUESTIONS, "left"))


MAKERS: Mapping[str, Callable[[Path, int], None]] = {
    "store": write_store,
    "store of groups": write_grouped,
    "unfinished store": write_unfinished,
    "label set": write_store,
    "label set of groups": write_grouped,
    "cached errors": write_store,
    "cached errors of groups": write_grouped,
    "images": write_images,
    "gallery": write_gallery,
    "scores": write_images,
    "run": write_run,
    "cache": write_cache,
    "sweep": write_sweep,
    "image flags": write_flags,
    "arena": write_arena,
}
