"""The encoder's dry run: rows, the store's bytes, memory, arithmetic and cost, before an image is decoded.

Per pair the VAE encodes two images, and with flips each mirrored too; per unique caption the text encoder runs once.
Both are counted (infra/base/counting.py), none of their weights read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infra.base import counting, dry_run, files, models
from infra.base.dry_run import DryRunConfig, Row
from labelers.clips.safety_checker import CheckerName, count_checker
from pipelines.latents import autoencoders, buckets, kinds, planned, safety, schemas, store, weight_files
from pipelines.latents.encode_config import EncodeConfig, StoreDtype, refuse_other_settings
from pipelines.latents.encode_latents import choose_resolution
from pipelines.latents.text_columns import Shapes, embedding_shapes
from pipelines.raw import pairs
from pipelines.raw.group_source import count_images
from pipelines.raw.source import RawTable, open_source, parquet_files


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
class Networks:
    """What is to be known of the frozen networks to plan with them."""

    vae_parameters: int
    image: float  # FLOPs of the VAE's encoder for one image
    activations: int  # bytes at the peak of one batch of the VAE
    captions: Mapping[str, float]  # FLOPs of one caption by text encoder
    embeddings: Shapes  # of each embedding column, per caption
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


def count_networks(
    folder: Path,
    resolution: int,
    tokens: int,
    batch_size: int,
    dtype: torch.dtype,
    checker: CheckerName | None = None,
) -> Networks:
    """Count the VAE's encoder and the text encoders of a diffusers folder on the meta device, and a safety checker.

    Args:
        tokens: of a caption, from kinds.text_tokens.
    """
    vae: Any = counting.empty(folder, autoencoders.VAE)
    kind = kinds.kind_of(folder)
    works: dict[str, float] = {}
    one = torch.empty(1, 3, resolution, resolution, device=counting.META)
    many = torch.empty(batch_size, 3, resolution, resolution, device=counting.META)
    with torch.no_grad():
        image = counting.flops(lambda: autoencoders.posterior(vae, one))
        activations = counting.peak_bytes(vae, lambda: autoencoders.posterior(vae, many)[0], dtype)
        for name in kind.frozen(with_sized=bool(tokens))[1:]:
            settings = models.component_config(folder, name)
            length = tokens if name == kind.sized else int(settings["max_position_embeddings"])
            caption = torch.zeros(1, length, dtype=torch.int64, device=counting.META)
            works[name] = counting.flops(partial(counting.empty(folder, name), caption))
    checker_parameters, checked_image = count_checker(checker.files().config()) if checker else (0, 0.0)
    return Networks(
        vae_parameters=counting.parameters(vae),
        image=image,
        activations=activations,
        captions=works,
        embeddings=embedding_shapes(folder, tokens),
        checker_parameters=checker_parameters,
        checked_image=checked_image,
    )


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
    width = getattr(torch, dtype).itemsize
    memory = [
        (f"VAE, {dtype}", float(width * networks.vae_parameters)),
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
        UserError: if the settings do not fit, or the store was begun with others.
    """
    destination = files.resolve(config.store)
    chosen = safety.make_filter(config.safety)
    for path in (files.join(destination, store.MANIFEST), files.join(destination, store.WORK, "config.json")):
        if files.exists(path):
            saved = files.read_json(path)  # a manifest has the settings in two parts, an unfinished store's file in one
            refuse_other_settings(destination, saved.get("config", saved) | saved.get("safety", {}), config, chosen)
    dataset = open_source(parquet_files(config.source, config.split))
    folder = planned.settings_folder(models.Model(config.model, config.revision))
    weight_files.check_folder(folder, ())
    tokens = kinds.text_tokens(folder, config.max_tokens)
    vae = autoencoders.vae_config(folder)
    resolution = choose_resolution(config, folder)
    shapes = buckets.ladder(folder, resolution) if config.buckets else ()
    stored = Stored(
        latent_shape=autoencoders.latent_shape(vae, resolution),
        posterior=config.posterior,
        flip=config.flip,
        dtype=config.store_dtype,
        buckets=len(shapes),
        largest=max((math.prod(autoencoders.shaped_latents(vae, shape)) for shape in shapes), default=0),
    )
    source = read_source(dataset, config.strict_labels, chosen.blocklist)
    rows = plan_rows(
        stored,
        asked,
        source,
        count_networks(folder, resolution, tokens, config.batch_size, getattr(torch, config.dtype), chosen.checker),
        copies=max(1, config.encoders),
        dtype=config.dtype,
    )
    print(dry_run.table(rows), flush=True)
    return source
