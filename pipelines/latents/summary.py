"""What a finished store says of itself: its rows counted, its files hashed, its manifest made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from infra.base import files, next_step, tables
from infra.base.errors import UserError
from pipelines.engine import block_rows, choose, progress
from pipelines.latents import addresses, group_index, label_files, repair, safety, store
from pipelines.latents.models_known import model_flags
from pipelines.raw import pairs, raw_pairs, raw_table

if TYPE_CHECKING:
    from pipelines.latents.encode_passes import Plan

TRAINED_ON = tuple(f"{folder}/" for folder in (*addresses.KEYS, store.KEPT_IMAGES))
MAX_REASONS = 100  # named in a manifest; some hold a number from the row, so a spoilt source may have millions


def kept_prompt_ids(plan: Plan) -> npt.NDArray[np.int64]:
    """Name the captions of the kept pairs, each once.

    Raises:
        UserError: if no pair was kept, with the most frequent reason.
    """
    rows = _rows_of(plan, "pairs/status=kept", ["prompt_id"])
    if rows is None:
        refused = _rows_of(plan, "pairs/status=quarantined", ["stage", "reason"])
        why = "all rows are ties"
        if refused is not None:
            reason, count = next(iter(count_reasons(refused).items()))
            why = f"most often: {reason} ({count} rows); {files.join(plan.destination, 'pairs')} has them all"
        raise UserError(f"--source {plan.config.source}: no pair was kept; {why}")
    return rows["prompt_id"].unique().to_numpy()


def refuse_spoilt_source(plan: Plan) -> None:
    """End an encoding whose source has more bad rows than may be; asked while it goes on, and after.

    Raises:
        UserError: with the most frequent reason. The rows are kept, and a higher limit goes on from there.
    """
    refused = _rows_of(plan, "pairs/status=quarantined", ["stage", "reason"])
    limit = plan.config.max_bad_fraction
    rows = plan.dataset.count_rows()
    if refused is not None:
        refused = refused.filter(pc.not_equal(refused["stage"], safety.STAGE))  # unwanted, not spoilt
    if refused is not None and refused.num_rows > limit * rows:
        reason, count = next(iter(count_reasons(refused).items()))
        raise UserError(
            f"--source {plan.config.source}: {refused.num_rows:,} of {rows:,} rows are quarantined already, over "
            f"--max-bad-fraction {limit:g}; most often: {reason} ({count} rows); "
            f"{files.join(plan.destination, 'pairs')} has them all"
        )


def _rows_of(plan: Plan, part: str, columns: list[str]) -> pa.Table | None:
    folder = files.join(plan.destination, part)
    paths = files.list_files(folder, tables.SUFFIX)
    return tables.read(paths, columns) if paths else None


def count_reasons(refused: pa.Table) -> dict[str, int]:
    """Count quarantined rows by stage and reason, the most frequent first; beyond MAX_REASONS together."""
    groups = refused.group_by(["stage", "reason"], use_threads=False).aggregate([([], "count_all")])
    groups = groups.sort_by([("count_all", "descending"), ("stage", "ascending"), ("reason", "ascending")])
    named = {f"{row['stage']}: {row['reason']}": row["count_all"] for row in groups[:MAX_REASONS].to_pylist()}
    rest = refused.num_rows - sum(named.values())
    return named | ({"other reasons": rest} if rest else {})


def summarise(plan: Plan) -> store.Manifest:
    """Count and hash the stored rows, write the human label set, and make the manifest.

    Raises:
        UserError: if the stored rows are not exactly the source's, or the captions not exactly those of the kept pairs.
    """
    paths = _files(plan, "pairs")
    others = [path for part in ("prompts", store.IMAGES) for path in _files(plan, part)]
    described_files = choose.current().map_files(addresses.describe_file, paths + others)
    read = dict(zip(paths + others, described_files, strict=True))
    _check_blocks(plan, {path: about for path, (about, _) in read.items()})
    wanted = kept_prompt_ids(plan)  # refused here where no pair was kept
    columns = ["pair_id", "label_0", "stage", "reason", "contradicts"]
    stored = tables.read(paths, columns)
    kept = _rows_of(plan, "pairs/status=kept", columns)
    ties = _rows_of(plan, store.TIES, columns)
    refused = _rows_of(plan, "pairs/status=quarantined", columns)
    assert kept is not None
    reasons = count_reasons(refused) if refused is not None else {}
    counts = store.Counts(
        rows_in=plan.dataset.count_rows(),
        ties=ties.num_rows if ties is not None else 0,
        invalid=_refused_for_labels(refused) if refused is not None else 0,
        quarantined=refused.num_rows if refused is not None else 0,
        kept=kept.num_rows,
        contradicting=int(pc.sum(stored["contradicts"]).as_py() or 0),
        prompts=len(wanted),
        images=sum(tables.count_rows(path) for path in _files(plan, store.KEPT_IMAGES)),
        repeated=plan.repeats.repeated,
        disagreeing=plan.repeats.disagreeing,
        same_images=plan.repeats.same_images,
    )
    _check_pairs(plan, stored["pair_id"].to_numpy())
    _check_captions(plan, wanted)
    manifest = _manifest(plan, counts, reasons, {path: about for path, (about, _) in read.items()}, _index(plan, read))
    _write_human_labels(plan, kept, manifest.content_hash)
    return manifest


def _check_blocks(plan: Plan, described: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse rows that are not those that this store's passes wrote, and remove their blocks.

    Ids alone do not tell: a block of another encoding of the same source has the same.
    """
    repair.refuse_altered(plan.destination, described)
    digests = {path: str(about["digest"]) for path, about in described.items()}
    passes = (store.IMAGES, "prompts") if plan.images else ("pairs", "prompts")
    for folder in passes:
        block_rows.refuse_altered(files.join(plan.destination, folder), plan.work(f"{folder}_done"), digests)


def _check_pairs(plan: Plan, stored: npt.NDArray[np.int64]) -> None:
    """Refuse rows that are not those of the source, each once, and forget their blocks: the same command mends that."""
    wanted = raw_table.all_pair_ids(plan.dataset)
    if not np.array_equal(np.sort(stored), np.sort(wanted)):
        progress.forget_blocks(plan.work("pairs_done"), "pair_id", wanted)
        foreign = int((~np.isin(stored, wanted)).sum())
        raise UserError(
            f"{plan.destination}: {len(stored)} rows stored for {len(wanted)} in the source, {foreign} of them foreign"
            "; files there or the source changed meanwhile: give the same command again, or another --store"
        )


def _index(plan: Plan, read: Mapping[str, tuple[Any, addresses.Located | None]]) -> dict[str, dict[str, Any]]:
    """Write where the kept pairs and captions lie, and return what the manifest tells of it."""
    names = {path.removeprefix(f"{plan.destination}/"): located for path, (_, located) in read.items()}
    files.remove(files.join(plan.destination, addresses.FOLDER))  # of a run that was killed, or from before a repair
    trained_on = {n: one for n, one in names.items() if n.startswith(TRAINED_ON)}
    if not plan.images:
        return addresses.write(plan.destination, trained_on, plan.buckets)
    rows = {n: one for n, one in trained_on.items() if not n.startswith(f"{store.KEPT}/")}
    pairs_of_images = _rows_of(plan, store.KEPT, ["pair_id", "prompt_id", "group_id", "image_0_id", "image_1_id"])
    assert pairs_of_images is not None
    return group_index.write(plan.destination, rows, pairs_of_images)


def _files(plan: Plan, part: str) -> list[str]:
    return files.list_files(files.join(plan.destination, part), tables.SUFFIX)


def _refused_for_labels(refused: pa.Table) -> int:
    return int(pc.sum(pc.equal(refused["stage"], "label")).as_py() or 0)


def _write_human_labels(plan: Plan, kept: pa.Table, content_hash: str) -> None:
    nulls = pa.nulls(kept.num_rows, pa.float32())
    human = [kept["pair_id"], nulls, nulls, kept["label_0"], _probabilities(plan, kept)]
    labels = pa.table(human, names=label_files.LABELS_SCHEMA.names).cast(label_files.LABELS_SCHEMA)
    origin = {"source": plan.config.source, "labelled_by": raw_pairs.labelled_by(plan.config.source)}
    about = {"scorer": "human", **origin, "settings": {"store_hash": content_hash}}
    label_files.write_labels(plan.destination, "human", labels, about)


def _probabilities(plan: Plan, kept: pa.Table) -> pa.Array:
    """Look up the kept pairs' soft labels in the source; nulls where people voted on no pair, [kept] float32."""
    if pairs.PROBABILITY not in plan.dataset.names:
        return pa.nulls(kept.num_rows, pa.float32())
    by_id: dict[int, float | None] = {}
    for part in plan.dataset.parts:
        for piece in raw_table.read_pieces(part.path, [*raw_table.id_columns(plan.dataset, part), pairs.PROBABILITY]):
            by_id |= dict(zip(pairs.pair_ids(piece).tolist(), piece[pairs.PROBABILITY].to_pylist(), strict=True))
    return pa.array([by_id[pair_id] for pair_id in kept["pair_id"].to_pylist()], pa.float32())


def _check_captions(plan: Plan, wanted: npt.NDArray[np.int64]) -> None:
    """Refuse prompts/ that are not the wanted captions and the empty one, each once: a pair would get another's."""
    rows = _rows_of(plan, "prompts", ["prompt_id"])
    stored = rows["prompt_id"].to_numpy() if rows is not None else np.empty(0, np.int64)
    expected = np.union1d(wanted, pairs.prompt_id(""))
    if not np.array_equal(np.sort(stored), expected):
        folder = files.join(plan.destination, "prompts")
        done = plan.work("prompts_done")
        raise UserError(
            f"{folder}: {len(stored)} captions stored, of which {np.isin(expected, stored).sum()} are among the "
            f"{len(expected)} wanted; delete this folder and {done}, then the same command encodes them again"
        )


def _manifest(
    plan: Plan,
    counts: store.Counts,
    reasons: dict[str, int],
    described: dict[str, dict[str, Any]],
    index: dict[str, dict[str, Any]],
) -> store.Manifest:
    names = {path: path.removeprefix(plan.destination + "/") for path in described}
    trained_on = [path for path, name in names.items() if name.startswith(TRAINED_ON)]
    content = sum(int(described[path]["digest"], 16) for path in trained_on)
    from pipelines.latents import autoencoders  # which loads torch

    normalisation = autoencoders.normalisation(plan.folder)
    return store.Manifest(
        source=plan.config.source,
        model=plan.config.model,
        fingerprints=plan.fingerprints,
        resolution=plan.resolution,
        latent_shape=plan.latent_shape,
        buckets=tuple(plan.buckets),
        scaling_factor=normalisation.scale,
        shift_factor=normalisation.shift,
        posterior=plan.config.posterior,
        flip=plan.config.flip,
        embeddings=plan.embeddings,
        counts=counts,
        reasons=dict(sorted(reasons.items())),
        content_hash=f"{content % (1 << 128):032x}",
        config=asdict(plan.config),
        dtype=plan.config.store_dtype,
        safety=dict(plan.filter.identity),
        source_files=plan.source_files,
        files={
            names[path]: {k: v for k, v in about.items() if k != "digest"} for path, about in sorted(described.items())
        }
        | index,
    )


def result(destination: str, manifest: store.Manifest) -> str:
    """Say in one line what a store holds, its size, and the command that trains on it."""
    then = ("training/train_dpo.py", *model_flags(manifest.config["model"]), "--store", destination)
    return next_step.last_line(destination, f"{manifest.counts.kept:,} pairs", next_step.command(*then))


def table(manifest: store.Manifest, seconds: float | None = None, written_before: int = 0) -> str:
    """Lay out what was done, for the terminal; a resumed run's speed counts the rows that it wrote itself."""
    counts = asdict(manifest.counts)
    if not manifest.counts.images:
        del counts["images"]
    size = sum(int(about["bytes"]) for about in manifest.files.values())
    lines = [(name.replace("_", " "), f"{value:,}") for name, value in counts.items() if value is not None]
    lines += [(f"  {reason}", f"{count:,}") for reason, count in manifest.reasons.items()]
    if seconds is not None:
        share = 1 - written_before / (manifest.counts.images or manifest.counts.rows_in)
        images = manifest.counts.images or 2 * manifest.counts.kept
        lines += [("seconds", f"{seconds:,.1f}"), ("images/s", f"{max(0.0, images * share) / seconds:,.1f}")]
    lines.append(("bytes", f"{size:,}"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"  {name:<{width}}  {value:>14}" for name, value in lines)
