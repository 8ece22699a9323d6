"""What a finished store says of itself: its rows counted, its files hashed, its manifest made."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from infra import files
from infra.errors import UserError
from pipelines import engine, raw_pairs, safety, store

if TYPE_CHECKING:
    from pipelines.encode_latents import Plan

MAX_REASONS = 100  # named in a manifest; some hold a number from the row, so a spoilt source may have millions


def kept_prompt_ids(plan: Plan) -> list[int]:
    """List the captions of the kept pairs, each once.

    Raises:
        UserError: if no pair was kept, with the most frequent reason.
    """
    rows = _rows_of(plan, "kept", ["prompt_id"])
    if rows is None:
        refused = _rows_of(plan, "quarantined", ["stage", "reason"])
        told = "all rows are ties"
        if refused is not None:
            reason, count = next(iter(count_reasons(refused).items()))
            told = f"most often: {reason} ({count} rows); {files.join(plan.destination, 'pairs')} has them all"
        raise UserError(f"--source {plan.config.source}: no pair was kept; {told}")
    return rows["prompt_id"].unique().to_pylist()


def refuse_spoilt_source(plan: Plan) -> None:
    """End an encoding whose source has more bad rows than may be; asked while it goes on, and after.

    Raises:
        UserError: with the most frequent reason. The rows are kept, and a higher limit goes on from there.
    """
    refused, limit = _rows_of(plan, "quarantined", ["stage", "reason"]), plan.config.max_bad_fraction
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


def _rows_of(plan: Plan, status: str, columns: list[str]) -> pa.Table | None:
    folder = files.join(plan.destination, "pairs", f"status={status}")
    filesystem, _ = files.open_filesystem(folder)
    paths = [files.open_filesystem(path)[1] for path in files.list_files(folder, ".parquet")]
    return pads.dataset(paths, filesystem=filesystem, format="parquet").to_table(columns=columns) if paths else None


def count_reasons(refused: pa.Table) -> dict[str, int]:
    """Count quarantined rows by stage and reason, the most frequent first; beyond MAX_REASONS together."""
    counted = Counter(
        f"{stage}: {reason}"
        for stage, reason in zip(refused["stage"].to_pylist(), refused["reason"].to_pylist(), strict=True)
    )
    named = dict(counted.most_common(MAX_REASONS))
    rest = counted.total() - sum(named.values())
    return named | ({"other reasons": rest} if rest else {})


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
    reasons = count_reasons(rows.filter(pa.array(refused)))
    kept = rows.filter(pa.array(status == "kept"))
    nulls = pa.nulls(kept.num_rows, pa.float32())
    human = [kept["pair_id"], nulls, nulls, kept["label_0"], nulls]
    labels = pa.table(
        [column.cast(t) for column, t in zip(human, store.LABELS_SCHEMA.types, strict=True)], schema=store.LABELS_SCHEMA
    )
    origin = {"source": plan.config.source, "labelled_by": raw_pairs.labelled_by(plan.config.source)}
    store.write_labels(plan.destination, "human", labels, {"scorer": "human", **origin})
    return _manifest(plan, counts, reasons, described)


def _manifest(
    plan: Plan, counts: store.Counts, reasons: dict[str, int], described: dict[str, dict[str, Any]]
) -> store.Manifest:
    names = {path: path.removeprefix(plan.destination + "/") for path in described}
    trained_on = [path for path, name in names.items() if name.startswith(("pairs/status=kept/", "prompts/"))]
    content = sum(int(described[path]["digest"], 16) for path in trained_on)
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
        embeddings=plan.embeddings,
        counts=counts,
        reasons=dict(sorted(reasons.items())),
        content_hash=f"{content % (1 << 128):032x}",
        config=asdict(plan.config),
        safety=dict(plan.filter.identity),
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
