"""Compute a reference's errors ahead of training: `ray job submit -- python pipelines/encode_reference.py --name NAME`.

A store's kept pairs at the draws that training makes of them, epoch by epoch, to STORE/reference/NAME; then
`train_dpo.py --reference NAME` holds no reference. The same command again finishes what is missing, more --draws are
added to those that are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.base import begun, files, models, next_step, object_storage, one_writer
from infra.base.config_files import save_config
from infra.base.errors import UserError, check_least
from infra.base.node_cache import check_cache
from pipelines.engine import block_rows, choose, resumable, shares
from pipelines.engine.jobs import Job, Step
from pipelines.latents import stated, store
from pipelines.latents.kinds import kind_of
from pipelines.latents.models_known import model_flags
from pipelines.latents.store_check import reference_problems
from training.method.policy_config import check_base_precision
from training.reference import reference_errors
from training.reference.reference_config import ReferenceConfig

Visited = Literal["pair", "image"]  # in a store of groups each image is visited once for all its pairs
ERRORS = "errors"  # folder of the visits made, below the work folder
MARKS = "errors_done"  # folder of the marks of finished blocks, there
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything known before Ray starts."""

    config: ReferenceConfig
    destination: str  # the store
    model: models.Model
    settings: reference_errors.Settings
    finished: reference_errors.Manifest | None
    visited: Visited = "pair"

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
    visits = None
    if plan.finished_draws < config.draws:
        visits = resumable.finish(_pass(plan, folder))
    manifest = reference_errors.read_manifest(plan.destination, config.name)
    what = f"{manifest.images:,} images" if manifest.images else f"{manifest.pairs:,} pairs"
    if visits is None:
        reference_errors.verify(plan.destination, config.name, manifest, contents=True)
        print(f"{folder}: already finished with {manifest.draws} draws, nothing to do", flush=True)
    else:
        print(f"{folder}: {manifest.draws} draws of {what}, {len(visits):,} visits new", flush=True)
    flags = (*model_flags(config.model), "--store", plan.destination, "--reference", config.name)
    then = next_step.command("training/train_dpo.py", *flags)
    print(next_step.last_line(folder, f"errors of {what}", then), flush=True)


def verify(config: ReferenceConfig) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong with these cached errors."""
    yield from reference_problems(reference_errors.folder_of(files.resolve(config.store), config.name))


def _pass(plan: Plan, folder: str) -> resumable.Pass[pa.Table]:
    config = plan.config
    wanted = wanted_visits(visited_ids(plan), plan.finished_draws, config.draws, plan.visited)

    def has_draws() -> bool:
        finished = _finished(plan.destination, config.name)
        return finished is not None and finished.draws >= config.draws

    return resumable.Pass(
        work=plan.work,
        settings=asdict(plan.settings),
        is_finished=has_draws,
        lock=lambda: one_writer.writer_lock(folder),
        refuse_others=lambda noted: _refuse_others(config, noted, plan.settings),
        prepare=lambda: _connect(config),
        run=lambda: visit_pairs(plan, wanted),
        count=lambda: read_visits(plan, wanted),
        publish=lambda visits: publish(plan, visits),
    )


def _connect(config: ReferenceConfig) -> None:
    only = shares.cluster_only("--gpus-per-copy", config.gpus_per_copy)
    choose.connect("--copies", config.copies, only)


def _finished(path: str, name: str) -> reference_errors.Manifest | None:
    if not files.exists(files.join(reference_errors.folder_of(path, name), store.MANIFEST)):
        return None
    return reference_errors.read_manifest(path, name)


def _refuse_others(config: ReferenceConfig, noted: Mapping[str, Any], settings: reference_errors.Settings) -> None:
    noted = {"base_precision": "float32", **noted}  # which earlier versions did not name
    begun.refuse_other_settings(f"--name {config.name}", noted, asdict(settings), "give another --name", exact=True)


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
    check_base_precision(config.base_precision, config.precision)
    check_cache(config.cache)
    path = files.resolve(config.store)
    object_storage.check("--store", path)
    manifest = store.read_manifest(path)
    store.verify(path, manifest)
    model = models.Model(config.model, config.revision)
    stated.refuse(model.folder(()))
    # These load the libraries of networks: what needs none is refused by now.
    from pipelines.latents import weight_files
    from training.backbones.backbone import check_fingerprints, open_backbone
    from training.layout.base_precision import check_package

    check_package(config.base_precision)
    weight_files.check_folder(model.folder(()), ())
    check_fingerprints(manifest.fingerprints, model.folder(tuple(manifest.fingerprints)), path)
    model = model.pinned()
    weight_files.check_weights(model.folder(), (kind_of(model.folder()).network,))
    finished = _finished(path, config.name)
    before = finished.settings if finished else None
    noted = files.join(path, "reference", store.WORK, config.name, resumable.NOTED)
    if before is None and files.exists(noted):
        before = reference_errors.Settings(**files.read_json(noted))
    settings = reference_errors.Settings.of(
        open_backbone(model.folder(), config.schedule),
        manifest,
        config.seed,
        config.caption_dropout,
        config.batch_size,
        config.precision,
        config.base_precision,
        before,
    )
    if before is not None:
        _refuse_others(config, asdict(before), settings)
    return Plan(
        config=config,
        destination=path,
        model=model,
        settings=settings,
        finished=finished,
        visited="image" if manifest.counts.images else "pair",
    )


def visited_ids(plan: Plan) -> npt.NDArray[np.int64]:
    """Return the ids of what is visited, ascending: the kept pairs, or of a store of groups the images in these."""
    if plan.visited == "pair":
        return store.kept_pairs(plan.destination)["pair_id"].to_numpy()
    return store.images_of_pairs(plan.destination)


def wanted_visits(ids: npt.NDArray[np.int64], begin: int, end: int, visited: Visited = "pair") -> pa.Table:
    """List the visits to all pairs or images in draws begin to end - 1: visit (draw x ids + place), id, draw."""
    count = len(ids)
    columns = {
        "visit": pa.array(np.arange(begin * count, end * count)),
        f"{visited}_id": pa.array(np.tile(ids, end - begin)),
        "draw": pa.array(np.repeat(np.arange(begin, end, dtype=np.int32), count)),
    }
    return pa.table(columns)


def visit_ids(table: pa.Table) -> npt.NDArray[np.int64]:
    """Return the numbers of visits."""
    return table["visit"].to_numpy()


def visit_pairs(plan: Plan, wanted: pa.Table) -> None:
    """Run the pass; visits that an earlier run of it wrote are not made again."""
    config = plan.config
    source = files.join(plan.work, "wanted.parquet")
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
        "base_precision": config.base_precision,
    }
    share = shares.share(choose.current().device_count(), config.copies, config.gpus_per_copy)
    from training.reference.visit_pairs import VisitImages, VisitPairs

    step = Step(
        function=VisitPairs if plan.visited == "pair" else VisitImages,
        arguments=arguments,
        batch_size=None,  # whole blocks: of a store on S3, rows are asked for some passes ahead
        actors=share.copies,
        gpus=share.gpus,
    )
    choose.current().run(
        Job(
            source=[source],
            columns=wanted.column_names,
            steps=[step],
            output=files.join(plan.work, ERRORS),
            checkpoint=files.join(plan.work, MARKS),
            id_column="visit",
            row_ids=visit_ids,
            rows_per_block=config.rows_per_file,
            name="visits",
            rows=wanted.num_rows,
        )
    )


def publish(plan: Plan, visits: pa.Table) -> None:
    """Write the new draws, one file each, and then the manifest over all draws."""
    config = plan.config
    save_config(reference_errors.folder_of(plan.destination, config.name), config)
    before = plan.finished
    described: dict[str, dict[str, Any]] = {}
    hardware = set(pc.unique(visits["hardware"]).to_pylist())
    if before is not None:
        described |= {name: dict(about) for name, about in before.files.items()}
        hardware |= set(before.hardware)
    visited = visits.num_rows // (config.draws - plan.finished_draws)
    for place, draw in enumerate(range(plan.finished_draws, config.draws)):
        rows = visits.slice(place * visited, visited)
        file, about = reference_errors.write_draw(plan.destination, config.name, draw, rows)
        described[file] = about
    manifest = reference_errors.Manifest(
        settings=plan.settings,
        model=plan.model.name,
        revision=plan.model.revision,
        draws=config.draws,
        pairs=visited if plan.visited == "pair" else 0,
        images=visited if plan.visited == "image" else 0,
        hardware=tuple(sorted(hardware)),
        config=asdict(config),
        files=described,
    )
    reference_errors.write_manifest(plan.destination, config.name, manifest)


def read_visits(plan: Plan, wanted: pa.Table) -> pa.Table:
    """Read the visits that a pass made, in order.

    Earlier runs, killed, may have left visits of finished draws, or of more draws than are asked for now.

    Raises:
        UserError: if the visits made are not exactly the wanted ones.
    """
    first = wanted["visit"][0]
    last = wanted["visit"][-1]
    in_range = (pc.field("visit") >= first) & (pc.field("visit") <= last)
    made = block_rows.read(files.join(plan.work, ERRORS), files.join(plan.work, MARKS))
    visits = made.filter(in_range).sort_by("visit")
    if not visits.select(wanted.column_names).equals(wanted):
        raise UserError(f"{plan.work}: {visits.num_rows} visits for {wanted.num_rows} wanted; remove it and run again")
    return visits
