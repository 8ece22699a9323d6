"""Turn raw pairs into a latent store: `ray job submit -- python pipelines/encode_latents.py`.

Two checkpointed passes: pairs (check, decode, VAE), then captions (text encoder, once per unique caption). The same
command again finishes what is missing, and does nothing to a finished store. `--dry-run` prints what it would take.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.base import files, hub, logs, models, named_files, object_storage, one_writer
from infra.base.config_files import save_config
from infra.base.errors import UserError
from pipelines.engine import choose, progress, resumable, shares
from pipelines.latents import begun_store, buckets, kinds, label_files, repair, stated, store, store_check, store_hub
from pipelines.latents.encode_config import (
    EncodeConfig,
    check_numbers,
    store_identity,
)
from pipelines.latents.safety import make_filter
from pipelines.latents.summary import result, summarise, table
from pipelines.raw import contents, group_source, label_values, other_formats, raw_table, repeats, source

if TYPE_CHECKING:
    from pipelines.latents.encode_passes import Plan


def main(config: EncodeConfig) -> None:
    """Turn raw pairs into a latent store: check, decode, VAE- and text-encode each pair and caption once."""
    destination = files.resolve(config.store)
    object_storage.check("--store", destination)
    if config.push_to_hub is not None:
        hub.check(config.push_to_hub)
    _encode(config, destination)
    if config.push_to_hub is not None:
        print(store_hub.push(destination, config.push_to_hub, config.hub_license), flush=True)
    print(result(destination, store.read_manifest(destination)), flush=True)


def _encode(config: EncodeConfig, destination: str) -> None:
    """Finish a store, or say that it is finished."""
    if files.exists(files.join(destination, store.MANIFEST)) and not _to_repair(config, destination):
        return
    plan = make_plan(config, destination)
    from pipelines.latents import look  # which loads torch

    print(look.say(plan, look.look_at(plan)), flush=True)
    for sentence in plan.repeats.sentences:
        logs.LOGGER.warning(f"--source {config.source}: {sentence}")
    started = time.perf_counter()
    encoded = resumable.finish(_pass(plan))
    seconds = time.perf_counter() - started
    if encoded is None:
        print(f"{destination}: already finished, nothing to do\n{table(store.read_manifest(destination))}", flush=True)
        return
    manifest, repaired = encoded
    print(f"{destination}\n{table(manifest, seconds, plan.written_before)}", flush=True)
    if repaired:
        print(f"{destination}: {repaired}", flush=True)
    _say_sheet(plan)


def _say_sheet(plan: Plan) -> None:
    """Write the contact sheet and say where it lies; the store is finished without it, too."""
    from pipelines.latents import look

    try:
        sheet = look.write_sheet(plan)
    except (UserError, OSError) as error:  # the source is gone by now, or the disk is full
        logs.LOGGER.warning(f"{files.join(plan.destination, look.SHEET)}: not written ({error}); the store is whole")
        return
    if sheet is not None:
        print(f"look at {sheet}", flush=True)


def verify(config: EncodeConfig) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong with the store, its label sets and its cached errors."""
    destination = files.resolve(config.store)
    yield from store_check.problems(destination)


def _pass(plan: Plan) -> resumable.Pass[tuple[store.Manifest, str | None]]:
    from pipelines.latents.encode_passes import encode_captions, encode_pairs

    def encode() -> None:
        if plan.images:
            from pipelines.latents.group_passes import encode_groups

            encode_groups(plan)
        else:
            encode_pairs(plan)
        encode_captions(plan)

    def count() -> tuple[store.Manifest, str | None]:
        manifest = summarise(plan)
        return manifest, repair.compared(plan.destination, manifest)

    def prepare() -> None:
        choose.connect("--encoders", plan.config.encoders, _cluster_only(plan.config))
        files.write_json(plan.work(store.SOURCE), plan.source_files)

    def publish(encoded: tuple[store.Manifest, str | None]) -> None:
        if not plan.config.repair:
            save_config(plan.destination, plan.config)
        store.publish(plan.destination, encoded[0])

    def refuse_others(noted: Mapping[str, Any]) -> None:
        before = replace(begun_store.begun(plan.destination), settings=noted)
        begun_store.refuse_other_settings(before, plan.config, plan.filter, plan.fingerprints)

    return resumable.Pass(
        work=plan.work(),
        settings=store_identity(plan.config, plan.filter) | {"fingerprints": plan.fingerprints},
        is_finished=lambda: files.exists(files.join(plan.destination, store.MANIFEST)),
        lock=lambda: one_writer.writer_lock(plan.destination),
        refuse_others=refuse_others,
        prepare=prepare,
        run=encode,
        count=count,
        publish=publish,
    )


def _cluster_only(config: EncodeConfig) -> str | None:
    """Return the first flag given, with its value, that only a cluster can heed; None where none is."""
    if config.accelerator_type is not None:
        return f"--accelerator-type {config.accelerator_type}"
    return shares.cluster_only("--gpus-per-encoder", config.gpus_per_encoder)


def _to_repair(config: EncodeConfig, destination: str) -> bool:
    """Say whether a finished store was reopened, to have its lost rows computed again; else it needs nothing."""
    finished = store.read_manifest(destination)
    before = begun_store.begun_of(destination, finished)
    begun_store.refuse_other_settings(before, config, make_filter(config.safety))
    wrong = repair.damaged(destination, finished) if config.repair else {}
    if wrong:
        plan = make_plan(config, destination)  # what it would refuse is refused while the store is whole
        begun_store.refuse_other_settings(before, config, plan.filter, plan.fingerprints)
        named_files.refuse(named_files.unknown(destination, finished.files))
        named_files.refuse(named_files.unknown(files.join(destination, repair.HUMAN), label_files.LABELS_FILES))
        with one_writer.writer_lock(destination):
            rows = repair.reopen(destination, finished, wrong)
        print(f"{destination}: {repair.describe(wrong)}; {rows:,} rows are computed again", flush=True)
        return True
    _refuse_finished_from_another(config, before)
    store.verify(destination, finished)
    print(f"{destination}: already finished, nothing to do\n{table(finished)}", flush=True)
    return False


def make_plan(config: EncodeConfig, destination: str) -> Plan:
    """Check every input before Ray starts.

    Raises:
        UserError: naming the flag or file that does not do.
    """
    check_numbers(config)
    begun_store.refuse_place(destination, config.source)
    sources = source.parquet_files(config.source, config.split)
    dataset = raw_table.open_source(sources)
    source_files = contents.contents_of(config.source, sources)
    begun_store.refuse_changed_source(begun_store.begun(destination), config, source_files)
    seen = repeats.Seen()
    labels = label_values.LabelValues()
    other_formats.refuse_no_images(sources)
    raw_table.all_pair_ids(dataset, seen, labels)
    labels.refuse(f"--source {config.source}")
    images = group_source.count_images(dataset)
    if images and config.buckets:
        raise UserError(
            f"--buckets: {config.source} is of groups, whose images have one shape in all their pairs; leave it out"
        )
    named = models.Model(config.model, config.revision)
    settings = named.folder(())
    stated.refuse(settings)
    # These load the libraries of networks: what needs none is refused by now.
    from pipelines.latents import autoencoders, text_columns, weight_files
    from pipelines.latents.encode_passes import Plan

    tokens = kinds.text_tokens(settings, config.max_tokens)
    frozen = kinds.kind_of(settings).frozen(with_sized=bool(tokens))
    weight_files.check_folder(settings, ())
    model = named.pinned(frozen)
    folder = model.folder(frozen)
    weight_files.check_weights(folder, frozen)
    vae = autoencoders.vae_config(folder)
    resolution = choose_resolution(config.resolution, folder)
    kinds.check_posterior(config.posterior, folder)
    fingerprints = _fingerprints(folder, frozen, destination)
    embeddings = text_columns.embedding_shapes(folder, tokens)
    return Plan(
        config=config,
        model=model,
        folder=folder,
        destination=destination,
        sources=sources,
        dataset=dataset,
        resolution=resolution,
        buckets=buckets.ladder(folder, resolution) if config.buckets else (),
        vae=vae,
        embeddings=embeddings,
        fingerprints=fingerprints,
        filter=make_filter(config.safety),
        written_before=progress.finished_rows(
            files.join(destination, store.WORK, "images_done" if images else "pairs_done")
        ),
        source_files=source_files,
        images=images,
        repeats=seen.count(),
    )


def _refuse_finished_from_another(config: EncodeConfig, before: begun_store.Begun) -> None:
    """Refuse to call a store finished whose source holds something else by now; one whose source is gone is."""
    if not before.source_files:
        return
    try:
        now = contents.contents_of(config.source, source.parquet_files(config.source, config.split))
    except (UserError, OSError):  # a finished store does not need its source any more
        return
    begun_store.refuse_changed_source(before, config, now)


def _fingerprints(folder: Path, frozen: Sequence[str], destination: str) -> dict[str, str]:
    """Return the frozen parts' fingerprints, by the rule that the store was begun with."""
    from pipelines.latents import identity

    notes = (store.MANIFEST, f"{store.WORK}/config.json")
    paths = [files.join(destination, note) for note in notes]
    noted = [files.read_json(path) for path in paths if files.exists(path)]
    before: Mapping[str, str] = next((note["fingerprints"] for note in noted if note.get("fingerprints")), {})
    if not any(identity.is_old(value) for value in before.values()):
        return identity.fingerprints(folder, frozen)
    identity.say_once(destination)
    return {name: models.fingerprint(folder, name) for name in frozen}


def choose_resolution(wanted: int | None, folder: Path) -> int:
    """Return the side of the images in pixels: as wanted, or what the model was made for.

    Raises:
        UserError: if VAE and network cannot cut it evenly.
    """
    step = kinds.pixels_per_latent(folder) * kinds.kind_of(folder).patch
    resolution = wanted or kinds.native_resolution(folder)
    if resolution % step:
        lower = resolution // step * step
        fitting = f"{lower} or {lower + step}" if lower else str(step)
        raise UserError(f"--resolution {resolution}: not a multiple of {step}, the model's step; give {fitting}")
    return resolution
