"""The encoder's dry run: rows, the store's bytes, memory, arithmetic and cost, before an image is decoded.

Per pair the VAE encodes two images, and with flips each mirrored too; per unique caption the text encoder runs once.
Both are counted (encode_counts.py), none of their weights read; what was counted before is taken from where it is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infra.base import dry_run, files, kept_counts, models
from infra.base.dry_run import DryRunConfig, Row
from pipelines.latents import begun_store, kinds, planned, safety, schemas, stated
from pipelines.latents.encode_config import EncodeConfig, StoreDtype, check_numbers
from pipelines.raw import contents, pairs
from pipelines.raw.group_source import count_images
from pipelines.raw.raw_table import RawTable, open_source
from pipelines.raw.source import parquet_files

if TYPE_CHECKING:
    from labelers.clips.safety_checker import CheckerName

WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes of a number


@dataclass(frozen=True, kw_only=True)
class SourceRows:
    """What a source holds, by its labels and captions; images that will not decode are not known yet."""

    rows: int
    ties: int
    refused: int  # for label or caption
    prompts: int  # unique captions among the rest
    blocked: int = 0  # by the word list
    images: int = 0  # of a source of groups, each encoded once; 0 of a source of pairs

    @property
    def encoded(self) -> int:
        """Return how many images would be encoded."""
        return self.images or 2 * self.kept

    @property
    def kept(self) -> int:
        """Return how many pairs would be encoded."""
        return self.rows - self.ties - self.refused - self.blocked


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What the store is to hold of an image."""

    latent_shape: tuple[int, int, int]
    posterior: str
    flip: bool
    dtype: StoreDtype = "float16"
    buckets: int = 0  # shapes that a pair may have; 0 without --buckets
    largest: int = 0  # values of a latent of the largest of them

    @property
    def value_bytes(self) -> int:
        """Return the bytes of one stored number."""
        return np.dtype(self.dtype).itemsize

    @property
    def images(self) -> int:
        """Return how many images a pair is encoded as."""
        return len(schemas.latent_columns(self.flip))

    @property
    def pair_bytes(self) -> int:
        """Return the bytes of a pair's latents."""
        values = self.largest or math.prod(self.latent_shape)
        return self.value_bytes * self.images * values * (2 if self.posterior == "moments" else 1)


@dataclass(frozen=True, kw_only=True)
class Networks(planned.NetworkWork):
    """What is to be known of the frozen networks to plan with them."""

    embeddings: Mapping[str, tuple[int, ...]]  # of each embedding column, per caption
    checker_parameters: int = 0
    checked_image: float = 0.0  # FLOPs of the safety checker for one image


def read_source(dataset: RawTable, strict_labels: bool, blocklist: safety.Blocklist | None = None) -> SourceRows:
    """Count a source's rows by what will become of them, from its labels and captions alone."""
    rows = ties = refused = blocked = 0
    unique: set[str] = set()
    columns = [name for name in ("caption", "label_0", "label_1") if name in dataset.names]
    for piece in dataset.pieces(columns):
        rows += piece.num_rows
        for row in pairs.as_rows(piece):
            label = row["label_0"]
            if pairs.check_caption(row["caption"]) or pairs.check_label(label, row.get("label_1"), strict_labels):
                refused += 1
            elif label == 0.5:
                ties += 1
            elif blocklist and blocklist.reason(str(row["caption"])):
                blocked += 1
            else:
                unique.add(str(row["caption"]))
    return SourceRows(
        rows=rows,
        ties=ties,
        refused=refused,
        prompts=len(unique),
        blocked=blocked,
        images=count_images(dataset),
    )


def counted_networks(
    folder: Path, shapes: planned.Shapes, tokens: int, config: EncodeConfig, checker: CheckerName | None = None
) -> Networks:
    """Return the work of the VAE, the text encoders and a safety checker, counted now or before.

    Args:
        folder: of the model's settings.
        shapes: of what the store is to hold.
        tokens: of a caption, from kinds.text_tokens.
        checker: counted anew each time, as it was loaded to be checked.
    """
    asked = {
        "resolution": shapes.resolution,
        "tokens": tokens,
        "batch_size": config.batch_size,
        "dtype": config.dtype,
    }

    def count() -> dict[str, Any]:
        from pipelines.latents import encode_counts  # which loads the libraries of networks

        return asdict(encode_counts.count_networks(folder, shapes.resolution, tokens, config.batch_size, config.dtype))

    networks = Networks(**kept_counts.kept(folder, "encoders", asked, count), embeddings=shapes.embeddings)
    if checker is None:
        return networks
    from labelers.clips.safety_checker import count_checker

    parameters, work = count_checker(checker.files().config())
    return replace(networks, checker_parameters=parameters, checked_image=work)


def plan_rows(
    stored: Stored, asked: DryRunConfig, source: SourceRows, networks: Networks, copies: int, dtype: str
) -> list[Row]:
    """Lay out the plan.

    Args:
        copies: of the VAE, each on an accelerator of its own.
        dtype: of the encoders' arithmetic.
    """
    pair_work = [(f"VAE, {stored.images} images", stored.images * networks.image)]
    if networks.checker_parameters:
        pair_work.append(("safety checker, 2 images", 2 * networks.checked_image))
    caption_work = list(networks.captions.items())
    work = sum(work for _, work in pair_work)
    total = source.encoded / 2 * work + (source.prompts + 1) * sum(networks.captions.values())
    latents = source.encoded * stored.pair_bytes // 2
    embeddings = (
        (source.prompts + 1) * stored.value_bytes * sum(math.prod(shape) for shape in networks.embeddings.values())
    )
    memory = [
        (f"VAE, {dtype}", float(WIDTHS[dtype] * networks.vae_parameters)),
        ("activations of one batch (estimate)", float(networks.activations)),
    ]
    if networks.checker_parameters:
        memory.append(("safety checker, float32", 4.0 * networks.checker_parameters))
    return [
        ("rows", f"{source.rows:,}"),
        ("  ties", f"{source.ties:,}"),
        ("  refused for label or caption", f"{source.refused:,}"),
        *([("  refused by the word list", f"{source.blocked:,}")] if source.blocked else []),
        ("  pairs to encode", f"{source.kept:,} (fewer where images do not decode)"),
        *([("  images, each once", f"{source.images:,}")] if source.images else []),
        ("captions, each once", f"{source.prompts:,}"),
        ("store", dry_run.gigabytes(latents + embeddings)),
        ("  latents", f"{dry_run.gigabytes(latents)}, {list(stored.latent_shape)} {stored.dtype}, {stored.posterior}"),
        *([("  buckets", f"{stored.buckets}, in rows as long as the largest needs")] if stored.buckets else []),
        ("  embeddings", dry_run.gigabytes(embeddings)),
        *dry_run.memory_rows(memory, asked.card),
        *dry_run.flop_rows("pair", pair_work),
        *dry_run.flop_rows("caption", caption_work),
        ("TFLOP of all", f"{total / 1e12:,.4g}"),
        *dry_run.cost_rows(asked, total, copies, "encoder", dtype),
    ]


def print_plan(config: EncodeConfig, asked: DryRunConfig) -> SourceRows:
    """Print what an encoding would take, from the source's labels and captions and the models' settings.

    Returns:
        What the source holds.

    Raises:
        UserError: if the settings do not fit, or the store was begun with others or from another source.
    """
    check_numbers(config)
    destination = files.resolve(config.store)
    begun_store.refuse_place(destination, config.source)
    chosen = safety.make_filter(config.safety)
    before = begun_store.begun(destination)
    begun_store.refuse_other_settings(before, config, chosen)
    sources = parquet_files(config.source, config.split)
    dataset = open_source(sources)
    if before.source_files:
        begun_store.refuse_changed_source(before, config, contents.contents_of(config.source, sources))
    folder = planned.settings_folder(models.Model(config.model, config.revision))
    stated.refuse(folder)  # also where the count is kept, which knows no weight files
    shapes = planned.shapes_of(folder, config.resolution, config.max_tokens, config.buckets)
    kinds.check_posterior(config.posterior, folder)
    stored = Stored(
        latent_shape=shapes.latent,
        posterior=config.posterior,
        flip=config.flip,
        dtype=config.store_dtype,
        buckets=len(shapes.buckets),
        largest=max(map(math.prod, shapes.buckets), default=0),
    )
    source = read_source(dataset, config.strict_labels, chosen.blocklist)
    rows = plan_rows(
        stored,
        asked,
        source,
        counted_networks(folder, shapes, kinds.text_tokens(folder, config.max_tokens), config, chosen.checker),
        copies=max(1, config.encoders),
        dtype=config.dtype,
    )
    print(dry_run.table(rows), flush=True)
    return source
