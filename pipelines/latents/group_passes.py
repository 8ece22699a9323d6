"""The encoder's passes over a source of groups: raw images to images/, then raw pairs to pairs/.

The first is a job like that of pairs: each image once, resumable. The second reads no image: from the pairs' rows and
what became of their images it writes pairs/ anew each time, always the same files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.base import files, metrics, tables
from infra.base.errors import UserError
from pipelines.engine import choose
from pipelines.engine.jobs import Job
from pipelines.latents import decoding, image_encoder, safety, schemas, store
from pipelines.latents.encode_passes import Plan, decode_and_encode, rows_per_block
from pipelines.latents.summary import count_reasons, refuse_spoilt_source
from pipelines.raw import group_source, groups, pairs, raw_table

ROWS_PER_FILE = 65_536  # of pairs/, some 100 bytes a row
PAIRS_READ = ("caption", "label_0", "label_1", "ranking_id", *groups.UIDS, "model_0", "model_1", groups.GROUP)


def encode_groups(plan: Plan) -> None:
    """Encode each image of the source once, and write the pairs that show them."""
    _encode_images(plan)
    _write_pairs(plan)
    refuse_spoilt_source(plan)


def _encode_images(plan: Plan) -> None:
    """Write images/, each image of the source once."""
    config = plan.config
    choose.current().run(
        Job(
            source=plan.sources,
            columns=groups.IMAGE_SCHEMA.names,
            steps=decode_and_encode(
                plan, decoding.CheckAndDecodeImages, image_encoder.ImageEncoder, checks={}, shaped={}
            ),
            output=files.join(plan.destination, store.IMAGES),
            checkpoint=plan.work("images_done"),
            id_column="image_id",
            row_ids=groups.image_ids,
            rows_per_block=rows_per_block(2 * config.rows_per_file, plan.latent_bytes),
            name="images",
            rows=plan.images,
            partition_by="status",
            may_go_on=lambda: _refuse_spoilt_images(plan),
            counts=metrics.encoded_images,
            read=group_source.read_images,
            written_as=schemas.WRITTEN_AS,
        )
    )
    _refuse_spoilt_images(plan)


def _refuse_spoilt_images(plan: Plan) -> None:
    """End an encoding of which more images are bad than may be; see summary.refuse_spoilt_source."""
    folder = files.join(plan.destination, store.IMAGES, "status=quarantined")
    paths = files.list_files(folder, tables.SUFFIX)
    if not paths:
        return
    refused = tables.read(paths, ["stage", "reason"])
    refused = refused.filter(pc.not_equal(refused["stage"], safety.STAGE))  # unwanted, not spoilt
    if refused.num_rows > plan.config.max_bad_fraction * plan.images:
        reason, count = next(iter(count_reasons(refused).items()))
        raise UserError(
            f"--source {plan.config.source}: {refused.num_rows:,} of {plan.images:,} images are quarantined already, "
            f"over --max-bad-fraction {plan.config.max_bad_fraction:g}; most often: {reason} ({count} images); "
            f"{folder} has them all"
        )


def _write_pairs(plan: Plan) -> None:
    """Write pairs/ from the source's rows, without their images, and the images' fate."""
    refused = _images_refused(plan)
    folder = files.join(plan.destination, "pairs")
    files.remove(folder)
    held: dict[str, list[dict[str, Any]]] = {}
    written: dict[str, int] = {}

    def flush(status: str) -> None:
        number = written.get(status, 0)
        table = pa.Table.from_pylist(held.pop(status), schema=schemas.grouped_pairs_schema()).drop_columns(["status"])
        path = files.join(folder, f"status={status}", f"pairs-{number:05d}.parquet")
        files.write_table(path, table, schemas.WRITTEN_AS)
        written[status] = number + 1

    for row in _judged(plan, refused):
        rows = held.setdefault(row["status"], [])
        rows.append(row)
        if len(rows) == ROWS_PER_FILE:
            flush(row["status"])
    for status in list(held):
        flush(status)


def _images_refused(plan: Plan) -> dict[int, tuple[str, str]]:
    """Return stage and reason by image_id of the images that are not kept.

    Raises:
        UserError: if the images stored are not exactly the source's.
    """
    folder = files.join(plan.destination, store.IMAGES)
    stored = tables.read_folder(folder, ["image_id", "stage", "reason"])
    ids = stored["image_id"].to_numpy()
    if len(ids) != plan.images or len(np.unique(ids)) != plan.images:
        raise UserError(
            f"{plan.destination}: {len(ids)} images stored for {plan.images} in the source; the source changed while "
            "it was encoded: give another --store"
        )
    refused = stored.filter(pc.is_valid(stored["stage"])).to_pylist()
    return {row["image_id"]: (row["stage"], row["reason"]) for row in refused}


def _judged(plan: Plan, refused: dict[int, tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Yield each pair of the source as a row of pairs/."""
    group: object = None
    first_caption: object = None
    for part in plan.dataset.parts:
        read = (*PAIRS_READ, *(groups.IMAGES if part.may_lack_ids else ()))  # a pair without ids is told by its images
        for piece in raw_table.read_pieces(part.path, [name for name in read if name in plan.dataset.names]):
            for pair_id, row in zip(pairs.pair_ids(piece), pairs.as_rows(piece), strict=True):
                if row[groups.GROUP] != group or group is None:
                    group = row[groups.GROUP]
                    first_caption = row["caption"]
                yield _judge(plan, int(pair_id), row, first_caption, refused)


def _judge(
    plan: Plan, pair_id: int, row: dict[str, Any], first_caption: object, refused: dict[int, tuple[str, str]]
) -> dict[str, Any]:
    named = {name: row.get(name) for name in (*groups.UIDS, "model_0", "model_1")}
    label = row["label_0"]
    out: dict[str, Any] = {name: decoding.as_text(value) for name, value in named.items()}
    out |= {"pair_id": pair_id, "contradicts": pairs.contradicts(label, row.get("label_1"))}
    refusal = (
        pairs.check_caption(row["caption"])
        or pairs.check_label(label, row.get("label_1"), plan.config.strict_labels)
        or groups.refusal(row, first_caption)
    )
    if refusal:
        return out | {"status": "quarantined", "stage": refusal.stage, "reason": refusal.reason}
    images = [groups.image_key(row[groups.GROUP], row[name]) for name in groups.UIDS]
    out |= {"prompt_id": pairs.prompt_id(row["caption"]), "label_0": label}
    out |= {"group_id": groups.group_key(row[groups.GROUP]), "image_0_id": images[0], "image_1_id": images[1]}
    if label == 0.5:
        return out | {"status": "tie"}
    for image in images:
        if image in refused:
            stage, reason = refused[image]
            return out | {"label_0": None, "prompt_id": None, "status": "quarantined", "stage": stage, "reason": reason}
    return out | {"status": "kept"}
