"""The encoder's two passes over the data: raw rows to pairs/, then captions to prompts/."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from infra.base import files, logs, metrics, models
from infra.base.errors import UserError
from pipelines.engine import choose, shares
from pipelines.engine.jobs import Job, Step
from pipelines.latents import autoencoders, captions, decoding, encoders, kinds, schemas, store, text_columns
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.safety import Filter
from pipelines.latents.summary import kept_prompt_ids, refuse_spoilt_source
from pipelines.raw import contents, pairs, raw_table, repeats

CAPTION_BYTES = 1 << 28  # of one block's embeddings; FLUX's are 4 MiB a caption
TOKENIZED = 8192  # captions whose tokens are counted at once: a million took 8.5 GB


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything known before Ray starts."""

    config: EncodeConfig
    model: models.Model
    folder: Path  # of the model, on the driver
    destination: str
    sources: list[str]
    dataset: raw_table.RawTable
    resolution: int
    buckets: Sequence[tuple[int, int]]  # heights and widths in pixels; none without --buckets
    vae: Mapping[str, Any]
    embeddings: text_columns.Shapes
    fingerprints: Mapping[str, str]
    filter: Filter
    written_before: int  # rows that earlier runs finished
    source_files: contents.Noted  # what the source's files hold
    repeats: repeats.Repeats  # rows that repeat others
    images: int = 0  # of a source of groups, each once; 0 of a source of pairs

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Return (C, H, W) of a latent."""
        return autoencoders.latent_shape(self.vae, self.resolution)

    @property
    def latent_bytes(self) -> int:
        """Return the bytes of one latent column in a row, as it is stored."""
        shapes = [autoencoders.shaped_latents(self.vae, shape) for shape in self.buckets] or [self.latent_shape]
        return self.value_bytes * max(map(math.prod, shapes)) * (2 if self.config.posterior == "moments" else 1)

    @property
    def value_bytes(self) -> int:
        """Return the bytes of one stored number."""
        return np.dtype(self.config.store_dtype).itemsize

    def work(self, *parts: str) -> str:
        """Return a path among the work files."""
        return files.join(self.destination, store.WORK, *parts)


def decode_and_encode(
    plan: Plan, decode: type, encode: type, checks: Mapping[str, Any], shaped: Mapping[str, Any]
) -> list[Step]:
    """Return the steps of a pass over images: check and decode, then the copies of the VAE.

    Args:
        plan: of the encoding.
        decode, encode: the classes of the two steps, which share the arguments made here.
        checks, shaped: what only this pass gives to the first and to the second.
    """
    config = plan.config
    devices = choose.current().device_count()
    share = shares.share(devices, config.encoders, config.gpus_per_encoder)
    judged = {"resolution": plan.resolution, "blocklist": plan.filter.blocklist, "fit": config.fit}
    encoded = {
        "model": plan.model,
        "resolution": plan.resolution,
        "posterior": config.posterior,
        "flip": config.flip,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "checker": plan.filter.checker,
        "store_dtype": config.store_dtype,
    }
    return [
        Step(
            function=decode,
            arguments={**judged, **checks},
            batch_size=config.batch_size,
            tasks=config.decode_tasks or None,
            cpus=shares.feeding_cpus(devices, config.cpus_per_decode_task),
        ),
        Step(
            function=encode,
            arguments={**encoded, **shaped},
            batch_size=config.batch_size,
            actors=share.copies,
            least=config.min_encoders or None,
            gpus=share.gpus,
            accelerator=config.accelerator_type,
        ),
    ]


def encode_pairs(plan: Plan) -> None:
    """Run the first pass: raw rows to pairs/, partitioned by status."""
    config = plan.config
    checks = {
        "strict_labels": config.strict_labels,
        "shapes": plan.buckets,
        "tolerance": config.bucket_tolerance,
    }
    choose.current().run(
        Job(
            source=plan.sources,
            columns=raw_table.columns_to_read(plan.dataset),
            steps=decode_and_encode(
                plan, decoding.CheckAndDecode, encoders.LatentEncoder, checks, {"shapes": plan.buckets}
            ),
            output=files.join(plan.destination, "pairs"),
            checkpoint=plan.work("pairs_done"),
            id_column="pair_id",
            row_ids=pairs.pair_ids,
            rows_per_block=rows_per_block(config.rows_per_file, plan.latent_bytes),
            name="pairs",
            rows=plan.dataset.count_rows(),
            partition_by="status",
            may_go_on=lambda: refuse_spoilt_source(plan),
            counts=metrics.encoded,
            read=raw_table.read_pieces,
            written_as=schemas.WRITTEN_AS,
        )
    )
    refuse_spoilt_source(plan)


def encode_captions(plan: Plan) -> None:
    """Run the second pass: the kept pairs' unique captions, and the empty one, to prompts/.

    Raises:
        UserError: if the source no longer has a kept pair's caption.
    """
    wanted = set(kept_prompt_ids(plan).tolist()) | {pairs.prompt_id("")}
    caption_of = dict(raw_table.captions_of(plan.dataset, wanted)) | {pairs.prompt_id(""): ""}
    lost = wanted - caption_of.keys()
    if lost:
        raise UserError(
            f"{plan.destination}: the source lacks {len(lost)} captions of kept pairs; "
            "the source changed while it was encoded: give another --store"
        )
    prompt_ids = sorted(caption_of)
    texts = pa.table(
        {"prompt_id": pa.array(prompt_ids, pa.int64()), "caption": [caption_of[key] for key in prompt_ids]}
    )
    _say_cut(plan, texts["caption"].to_pylist())
    # Checkpointing holds for sources read from files only, so the captions become one first.
    files.write_table(plan.work("captions.parquet"), texts)
    config = plan.config
    encode = {
        "model": plan.model,
        "batch_size": config.batch_size,
        "dtype": config.dtype,
        "max_tokens": config.max_tokens,
        "store_dtype": config.store_dtype,
    }
    caption_bytes = plan.value_bytes * sum(math.prod(shape) for shape in plan.embeddings.values())
    block = rows_per_block(8 * config.rows_per_file, caption_bytes, CAPTION_BYTES)
    share = shares.share(choose.current().device_count(), config.encoders, config.gpus_per_encoder)
    choose.current().run(
        Job(
            source=[plan.work("captions.parquet")],
            columns=["prompt_id", "caption"],
            steps=[
                Step(
                    function=captions.CaptionEncoder,
                    arguments=encode,
                    batch_size=config.batch_size,
                    actors=min(share.copies, -(-texts.num_rows // block)),
                    gpus=share.gpus,
                    accelerator=config.accelerator_type,
                )
            ],
            output=files.join(plan.destination, "prompts"),
            checkpoint=plan.work("prompts_done"),
            id_column="prompt_id",
            row_ids=_prompt_ids,
            rows_per_block=block,
            name="captions",
            rows=texts.num_rows,
            is_small=True,  # this process has loaded what it needs by now, and a second actor would load that again
            written_as=schemas.WRITTEN_AS,
        )
    )


def rows_per_block(wanted: int, row_bytes: int, most_bytes: int = schemas.PAGE_BYTES) -> int:
    """Return how many rows a file gets: as wanted, or as many as fit into one page (schemas.WRITTEN_AS)."""
    return max(1, min(wanted, schemas.PAGE_ROWS, most_bytes // row_bytes))


def count_cut(plan: Plan, texts: Sequence[str]) -> int:
    """Count the captions that no text encoder of the model sees whole."""
    tokens = kinds.text_tokens(plan.folder, plan.config.max_tokens)
    parts = kinds.kind_of(plan.folder).frozen(with_sized=bool(tokens))[1:]
    pipeline = text_columns.tokenizers_alone(plan.folder, parts)
    starts = range(0, len(texts), TOKENIZED)
    return sum(text_columns.count_cut(pipeline, parts, tokens, texts[start : start + TOKENIZED]) for start in starts)


def _say_cut(plan: Plan, texts: list[str]) -> None:
    """Say how many captions are longer than the model takes: they are cut off, as at sampling."""
    stored = [text for text in texts if text]  # the empty caption is of no pair
    cut = count_cut(plan, stored)
    if cut:
        logs.LOGGER.warning(
            f"{plan.destination}: {cut:,} of the {len(stored):,} captions of kept pairs are longer than the text "
            "encoders take, and are cut off, as they are when images are drawn"
        )


def _prompt_ids(table: pa.Table) -> np.ndarray[Any, np.dtype[np.int64]]:
    return table["prompt_id"].to_numpy()
