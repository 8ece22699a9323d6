"""How each kind of folder is used, and how --verify looks at it: what the table of hands.py is tried on.

A use returns what it read as text, which is equal where the same was read.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from infra.base import begun, cli, files, named_files, one_writer, records, result_files, tables
from infra.base.config_files import CONFIG
from infra.base.node_cache import staged_once
from infra.base.verifying import refusals
from pipelines.arena_app import arena
from pipelines.arena_app.arena_votes import VOTES, VoteLog, read_votes
from pipelines.drawing import gallery, image_flags, image_sets
from pipelines.drawing.generate_config import GenerateConfig
from pipelines.engine import block_rows, in_process, resumable
from pipelines.engine.jobs import Job, Step
from pipelines.experiments import sweep_done
from pipelines.judging import score_files
from pipelines.latents import label_files, schemas, store, store_check
from training.checkpoints import checkpoint, run_check
from training.checkpoints.run_folder import RESULT, settle_run_id
from training.reference import reference_errors
from training.run import train_dpo
from training.run.journal import Journal
from training.settings.config import TrainConfig

COPY = "copy"  # of the cache
SEED = 1  # of a run and of an arena


@dataclass(frozen=True)
class Kind:
    """A kind of folder."""

    use: Callable[[Path], str]
    problems: Callable[[Path], Iterator[str]]


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _rows(table: pa.Table) -> str:
    return repr(table.to_pydict())


def use_store(folder: Path) -> str:
    """Read a store as training and relabelling do: the files that its manifest names, compared with it."""
    manifest = store.read_manifest(str(folder))
    store.verify(str(folder), manifest, contents=True)
    kept = tables.read(store.files_of(str(folder), manifest, store.KEPT))
    prompts = tables.read(store.files_of(str(folder), manifest, "prompts"))
    return _digest(manifest.content_hash, _rows(kept), _rows(prompts), _rows(store.kept_pairs(str(folder))))


def use_groups(folder: Path) -> str:
    """Read a store of groups as training does: beside the rest, which images its pairs show."""
    read = use_store(folder)
    manifest = store.read_manifest(str(folder))
    images = tables.read(store.files_of(str(folder), manifest, store.KEPT_IMAGES))
    return _digest(read, _rows(images), _rows(store.shown_images(str(folder))))


class Encoded:
    """Step: captions to what a model of a version makes of them."""

    def __init__(self, version: int = 1) -> None:
        self.version = version

    def __call__(self, captions: pa.Table) -> pa.Table:
        """Add an embedding."""
        return captions.append_column("embedding", pa.array(np.full(captions.num_rows, self.version, np.float32)))


def captions_job(folder: Path) -> Job:
    """Describe the encoder's pass over captions, in blocks of two, with a step that costs nothing."""
    work = folder / store.WORK
    return Job(
        source=[str(work / "captions.parquet")],
        columns=["prompt_id"],
        steps=[Step(function=Encoded)],
        output=str(folder / "prompts"),
        checkpoint=str(work / "prompts_done"),
        id_column="prompt_id",
        row_ids=lambda table: table["prompt_id"].to_numpy(),
        rows_per_block=2,
        name="captions",
        rows=4,
        written_as=schemas.WRITTEN_AS,
    )


def use_unfinished(folder: Path) -> str:
    """Go on with the captions of an unfinished store, up to where their rows are about to be published."""
    job = captions_job(folder)
    rows: list[pa.Table] = []
    unpublished = resumable.Pass(
        work=str(folder / "work"),
        settings={},
        is_finished=lambda: False,
        lock=lambda: one_writer.writer_lock(str(folder)),
        run=lambda: in_process.run(job),
        count=lambda: block_rows.read(job.output, job.checkpoint),
        publish=rows.append,
    )
    resumable.finish(unpublished)
    return _digest(_rows(rows[0].sort_by("prompt_id")))


def use_labels(folder: Path) -> str:
    """Read a label set as training does."""
    table, sha256 = label_files.read_labels(str(folder), "red")
    return _digest(sha256, _rows(table))


def use_errors(folder: Path) -> str:
    """Read cached errors as training does."""
    manifest = reference_errors.read_manifest(str(folder), "base")
    reference_errors.verify(str(folder), "base", manifest, contents=True)
    place = reference_errors.folder_of(str(folder), "base")
    return _digest([_rows(tables.read([files.join(place, name)])) for name in sorted(manifest.files)])


def use_images(folder: Path) -> str:
    """Read images as the scorers, the report and the arena do."""
    return _digest(image_sets.read_manifest(str(folder))["identity"], _rows(image_sets.read_images(str(folder))))


def gallery_of(folder: Path) -> tuple[str, pa.Table, GenerateConfig]:
    """Describe the gallery of a folder of images: where it is, what it shows, and by which settings."""
    drawn = image_sets.read_images(str(folder), columns=["image_id", "caption", "image_index", "image_seed"])
    return str(folder), drawn, GenerateConfig(output=str(folder))


def use_gallery(folder: Path) -> str:
    """Give the command of a finished gallery again, and look at its images."""
    gallery.write_gallery(*gallery_of(folder))
    return _digest([(folder / gallery.FOLDER / f"0000{number}-0.png").read_bytes() for number in (1, 2)])


def use_scores(folder: Path) -> str:
    """Read scores as the report does."""
    return _digest(_rows(score_files.read_scores(str(folder))), score_files.read_set(str(folder)))


def use_run(folder: Path) -> str:
    """Take up a run as the trainer does, and open its result as generate.py does.

    A run that goes on from an earlier checkpoint has the same losses, so what is compared is not the step.
    """
    output = str(folder)
    settings = cli.begun_with(files.join(output, CONFIG), TrainConfig())
    now = cli.as_saved(replace(TrainConfig(), seed=SEED))
    begun.refuse_other_settings(output, settings, now, "give another --output", train_dpo.FREE)
    settle_run_id(output)
    step = checkpoint.next_start(output)
    assert step is not None
    state = checkpoint.check(files.join(output, checkpoint.name_of(step)))
    with contextlib.closing(Journal(folder, enabled=True, steps=step)) as journal:
        journal.rewind(step)
    result = files.join(output, RESULT)
    if files.is_file(files.join(result, result_files.FACTS)):
        named_files.refuse(result_files.problems(result))
    return _digest(settings, state.seed, state.global_batch, state.store_hash, state.labels_hash)


def use_cache(folder: Path) -> str:
    """Open a copy on a node, or make it again."""

    def fill(copy: Path) -> None:
        np.save(copy / "numbers.npy", np.arange(64))
        np.save(copy / "names.npy", np.arange(7))

    copy = staged_once(str(folder), COPY, 0, "the store", fill)
    return _digest(np.load(copy / "numbers.npy").tolist(), np.load(copy / "names.npy").tolist())


def use_sweep(folder: Path) -> str:
    """Read a sweep as the paper's report does."""
    trials = sweep_done.read_done(str(folder / sweep_done.DONE))["trials"]
    return _digest([(trial["name"], trial["seed"], trial["best_step"]) for trial in trials])


def use_flags(folder: Path) -> str:
    """Read which images are flagged, as whatever shows them does."""
    return _digest(image_flags.flag_reasons(str(folder)))


def use_arena(folder: Path) -> str:
    """Take up votes as a server does."""
    arena.refuse_lost_votes(str(folder))
    identity = records.read_record(str(folder / arena.ARENA), ("identity",), arena.REMEDY)["identity"]
    begun.refuse_other_settings(str(folder / arena.ARENA), identity, {"seed": SEED}, "give another folder", exact=True)
    with contextlib.closing(VoteLog(str(folder / VOTES))):
        votes, _ = read_votes(str(folder / VOTES))
    return _digest(identity, votes)


def _problems_of_scores(folder: Path) -> Iterator[str]:
    refused = list(refusals(lambda: image_sets.read_manifest(str(folder))))
    yield from refused or score_files.problems(str(folder))


def _problems_of_images(folder: Path) -> Iterator[str]:
    refused = list(refusals(lambda: image_sets.read_manifest(str(folder))))
    yield from refused or image_sets.problems(str(folder))


def _problems_of_arena(folder: Path) -> Iterator[str]:
    yield from refusals(lambda: arena.refuse_lost_votes(str(folder)))
    yield from refusals(lambda: use_arena(folder))


def _problems_of_unfinished(folder: Path) -> Iterator[str]:
    """Yield what cannot be read of an unfinished store: whatever else differs is computed again."""
    for path in (path for part in ("prompts", store.WORK) for path in files.list_files(str(folder / part))):
        yield from refusals(partial(files.read_bytes, path))


LABEL_SET = Kind(use_labels, lambda folder: store_check.label_set_problems(str(folder), "red"))
CACHED_ERRORS = Kind(
    use_errors, lambda folder: store_check.reference_problems(reference_errors.folder_of(str(folder), "base"))
)
KINDS: Mapping[str, Kind] = {
    "store": Kind(use_store, lambda folder: store_check.problems(str(folder))),
    "store of groups": Kind(use_groups, lambda folder: store_check.problems(str(folder))),
    "unfinished store": Kind(use_unfinished, _problems_of_unfinished),
    "label set": LABEL_SET,
    "label set of groups": LABEL_SET,
    "cached errors": CACHED_ERRORS,
    "cached errors of groups": CACHED_ERRORS,
    "images": Kind(use_images, _problems_of_images),
    "gallery": Kind(use_gallery, lambda _: iter(())),  # whatever differs is made again
    "scores": Kind(use_scores, _problems_of_scores),
    "run": Kind(use_run, lambda folder: run_check.problems(str(folder))),
    "cache": Kind(use_cache, lambda folder: run_check.cache_problems(str(folder))),
    "sweep": Kind(use_sweep, lambda folder: refusals(lambda: sweep_done.read_done(str(folder / sweep_done.DONE)))),
    "image flags": Kind(use_flags, lambda folder: refusals(lambda: image_flags.flag_reasons(str(folder)))),
    "arena": Kind(use_arena, _problems_of_arena),
}
