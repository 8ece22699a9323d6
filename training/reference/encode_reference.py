"""Compute a reference's errors ahead of training: `ray job submit -- python pipelines/encode_reference.py --name NAME`.

A store's kept pairs at the draws that training makes of them, epoch by epoch, to STORE/reference/NAME; then
`train_dpo.py --reference NAME` holds no reference. The same command again finishes what is missing, more --draws are
added to those that are there.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.base import files, models, object_storage, tables
from infra.base.config_files import save_config
from infra.base.errors import UserError, check_least
from infra.base.node_cache import check_cache
from pipelines.engine import on_ray
from pipelines.engine.jobs import Job, Step
from pipelines.latents import store, weight_files
from pipelines.latents.kinds import kind_of
from training.backbones.backbone import check_fingerprints, open_backbone
from training.backbones.base import ScheduleConfig
from training.reference import reference_errors
from training.reference.visit_pairs import VisitPairs
from training.settings.config import TrainConfig
from training.settings.presets import PRESETS as TRAIN_PRESETS

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class ReferenceConfig:
    """Settings of the reference's errors. They must be those of the training."""

    GROUPS: ClassVar = {
        "basic": ("store", "name", "model", "draws"),
        "training": ("seed", "caption_dropout", "precision", "timesteps", "zero_terminal_snr", "revision"),
        "speed": ("batch_size", "copies", "gpus_per_copy", "rows_per_file", "cache"),
    }

    store: str = "runs/store"
    """Latent store; the errors are written to its folder reference/NAME."""
    name: str = "base"
    """Name of the errors, which train_dpo.py --reference takes."""
    model: str = "infra/world/model"
    """Reference model, a diffusers folder or Hub name: the --reference-model of the training, or else its --model."""
    revision: str | None = None
    """Revision of the model on the Hub, for example a commit; by default the newest."""
    draws: int = 4
    """Visits to each pair. A training needs one for each epoch begun: 1 + (steps - 1) // (labelled pairs //
    --global-batch)."""
    seed: int = 0
    """The --seed of the training."""
    caption_dropout: float = 0.2
    """The --caption-dropout of the training."""
    batch_size: int = 16
    """Pairs that are computed at once; give the --micro-batch of the training, for errors equal to the last bit."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """The --precision of the training."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    copies: int = 0
    """Number of copies of the reference model; 0 takes one for each GPU, or one where there is none."""
    gpus_per_copy: float | None = None
    """GPUs that each copy holds; by default 1 where the cluster has GPUs, else 0."""
    cache: str | None = None
    """Folder on each node for a copy of the store; by default in the temporary folder."""
    rows_per_file: int = 1024
    """Visits per file. When a run is killed, each copy loses at most so many."""


def preset(training: TrainConfig) -> ReferenceConfig:
    """Return the settings whose errors a training with a preset takes; five draws are Pick-a-Pic's 2,000 steps."""
    return ReferenceConfig(
        model=training.model,
        draws=5,
        caption_dropout=training.data.caption_dropout,
        batch_size=training.data.micro_batch,
        precision=training.precision,
        schedule=training.schedule,
        rows_per_file=4096,
    )


PRESETS = {name: preset(training) for name, training in TRAIN_PRESETS.items()}


@dataclass(frozen=True)
class Plan:
    """Everything known before Ray starts."""

    config: ReferenceConfig
    destination: str  # the store
    model: models.Model
    settings: reference_errors.Settings
    finished: reference_errors.Manifest | None

    @property
    def work(self) -> str:
        """Return the folder of the unfinished pass."""
        return files.join(self.destination, "reference", store.WORK, self.config.name)

    @property
    def finished_draws(self) -> int:
        """Return the number of draws that an earlier run finished."""
        return self.finished.draws if self.finished else 0


def main(config: ReferenceConfig) -> None:
    """Compute the reference's errors of every kept pair at the draws of training, which then holds no reference."""
    plan = make_plan(config)
    folder = reference_errors.folder_of(plan.destination, config.name)
    if plan.finished and config.draws <= plan.finished.draws:
        reference_errors.verify(plan.destination, config.name, plan.finished, contents=True)
        print(f"{folder}: already finished with {plan.finished.draws} draws, nothing to do", flush=True)
        return
    with store.writer_lock(folder) as still_held:
        files.write_json(files.join(plan.work, "config.json"), asdict(plan.settings))
        on_ray.connect()
        kept = store.kept_pairs(plan.destination)["pair_id"].to_numpy()
        wanted = wanted_visits(kept, plan.finished_draws, config.draws)
        visit_pairs(plan, wanted)
        still_held()
        save_config(folder, plan.config)
        manifest = publish(plan, wanted)
        files.remove(plan.work)
    print(f"{folder}: {manifest.draws} draws of {manifest.pairs:,} pairs, {wanted.num_rows:,} visits new", flush=True)


def make_plan(config: ReferenceConfig) -> Plan:
    """Check every input before Ray starts.

    Raises:
        UserError: naming the flag that does not fit.
    """
    if not NAME.fullmatch(config.name):
        raise UserError(f"--name {config.name}: letters, digits, . _ and -, and no . in front")
    check_least(config, dict.fromkeys(("draws", "batch_size", "rows_per_file"), 1))
    if not 0 <= config.caption_dropout <= 1:
        raise UserError(f"--caption-dropout {config.caption_dropout}: must be between 0 and 1")
    check_cache(config.cache)
    path = files.resolve(config.store)
    object_storage.check("--store", path)
    manifest = store.read_manifest(path)
    store.verify(path, manifest)
    model = models.Model(config.model, config.revision)
    weight_files.check_folder(model.folder(()), ())
    check_fingerprints(manifest.fingerprints, model.folder(tuple(manifest.fingerprints)), path)
    model = model.pinned()
    weight_files.check_weights(model.folder(), (kind_of(model.folder()).network,))
    finished = None
    if files.exists(files.join(reference_errors.folder_of(path, config.name), store.MANIFEST)):
        finished = reference_errors.read_manifest(path, config.name)
    begun = files.join(path, "reference", store.WORK, config.name, "config.json")
    before = finished.settings if finished else None
    if before is None and files.exists(begun):
        before = reference_errors.Settings(**files.read_json(begun))
    settings = reference_errors.Settings.of(
        open_backbone(model.folder(), config.schedule),
        manifest,
        config.seed,
        config.caption_dropout,
        config.batch_size,
        config.precision,
        before,
    )
    plan = Plan(config, path, model, settings, finished)
    if before and (differing := before.differences(settings)):
        told = "; ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in differing.items())
        raise UserError(f"--name {config.name}: was begun with other settings ({told}); give another --name")
    return plan


def wanted_visits(pair_ids: npt.NDArray[np.int64], begin: int, end: int) -> pa.Table:
    """List the visits to all pairs in draws begin to end - 1: visit (draw x pairs + place), pair_id, draw."""
    pairs = len(pair_ids)
    columns = {
        "visit": pa.array(np.arange(begin * pairs, end * pairs)),
        "pair_id": pa.array(np.tile(pair_ids, end - begin)),
        "draw": pa.array(np.repeat(np.arange(begin, end, dtype=np.int32), pairs)),
    }
    return pa.table(columns)


def visit_ids(table: pa.Table) -> npt.NDArray[np.int64]:
    """Return the numbers of visits."""
    return table["visit"].to_numpy()


def visit_pairs(plan: Plan, wanted: pa.Table) -> None:
    """Run the pass; visits that an earlier run of it wrote are not made again."""
    config, source = plan.config, files.join(plan.work, "wanted.parquet")
    files.write_table(source, wanted)
    arguments = {
        "model": plan.model,
        "schedule": config.schedule,
        "path": plan.destination,
        "cache": config.cache,
        "seed": config.seed,
        "caption_dropout": config.caption_dropout,
        "batch_size": config.batch_size,
        "precision": config.precision,
    }
    copies, gpus = config.copies or max(1, on_ray.device_count()), config.gpus_per_copy
    if gpus is None:
        gpus = 1.0 if on_ray.device_count() else 0.0
    on_ray.run(
        Job(
            source=[source],
            columns=wanted.column_names,
            steps=[Step(VisitPairs, arguments, config.batch_size, copies, gpus=gpus)],
            output=files.join(plan.work, "errors"),
            checkpoint=files.join(plan.work, "errors_done"),
            id_column="visit",
            row_ids=visit_ids,
            rows_per_block=config.rows_per_file,
            name="visits",
            rows=wanted.num_rows,
        )
    )


def publish(plan: Plan, wanted: pa.Table) -> reference_errors.Manifest:
    """Write the new draws, one file each, and then the manifest over all.

    Raises:
        UserError: if the visits made are not exactly the wanted ones.
    """
    found = tables.read_folder(files.join(plan.work, "errors"))
    # Earlier runs, killed, may have left visits of finished draws, or of more draws than are asked for now.
    first, last = wanted["visit"][0], wanted["visit"][-1]
    found = found.filter((pc.field("visit") >= first) & (pc.field("visit") <= last)).sort_by("visit")
    if not found.select(wanted.column_names).equals(wanted):
        raise UserError(f"{plan.work}: {found.num_rows} visits for {wanted.num_rows} wanted; remove it and run again")
    before, config = plan.finished, plan.config
    described: dict[str, dict[str, Any]] = {name: dict(about) for name, about in before.files.items()} if before else {}
    pairs = wanted.num_rows // (config.draws - plan.finished_draws)
    for place, draw in enumerate(range(plan.finished_draws, config.draws)):
        rows = found.slice(place * pairs, pairs)
        file, about = reference_errors.write_draw(plan.destination, config.name, draw, rows)
        described[file] = about
    took_part = set(pc.unique(found["hardware"]).to_pylist()) | set(before.hardware if before else ())
    manifest = reference_errors.Manifest(
        settings=plan.settings,
        model=plan.model.name,
        revision=plan.model.revision,
        draws=config.draws,
        pairs=pairs,
        hardware=tuple(sorted(took_part)),
        config=asdict(config),
        files=described,
    )
    reference_errors.write_manifest(plan.destination, config.name, manifest)
    return manifest
