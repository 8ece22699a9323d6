"""The trainer's plan, which a dry run prints: steps, memory, arithmetic and cost.

It is made from the store's manifest and the network's settings; no weights are read. What network_count.py counts is
kept, so that a plan of the same settings loads no network's libraries again.

Let F be the FLOPs of one image's forward pass of the network, counted. A pair costs the policy
2 F forward and twice that backward, the reference 2 F, and recomputation under activation checkpointing 2 F more. With
adapters the backward pass is one F an image: gradients pass through the frozen weights, which need none of their own.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.base import dry_run, files, kept_counts
from infra.base.dry_run import DryRunConfig, Row
from pipelines.drawing.prompts import read_prompts
from pipelines.latents import encode_plan, planned, store
from pipelines.latents.addresses import index_bytes
from pipelines.latents.models_known import MODELS
from training.data.direct import is_addressable
from training.data.staging import staged_bytes
from training.method.draws import REWARD_DRAWS
from training.method.order import steps_an_epoch, usable
from training.run import encode_source
from training.run.preflight import check_settings, fit_batch, fit_to, refuse_few
from training.settings.config import DataConfig, TrainConfig
from training.settings.flags import check_flags

FLOAT32 = 4  # bytes
CARDS = (24, 48, 80, 141)  # GB of memory of the usual cards: L4, L40S, H100, H200


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a plan needs to know of a network."""

    parameters: int  # numbers
    trained: int  # numbers that are trained: the parameters, or the adapters beside them
    factors: int  # numbers that Adafactor keeps of the trained ones
    forward: float  # FLOPs of one image's forward pass, in the mean over the pairs
    activations: int  # bytes at the peak of a micro-batch's passes, of the largest shape; autocast's weights among them
    more_pairs: float = 0.0  # bytes that each further pair of a micro-batch adds to them
    frozen: int = 0  # bytes of frozen weights, as the base precision holds them


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a run holds and computes beside the policy's own step."""

    reference: bool  # a reference runs at every step
    held: bool = True  # the reference is a network of its own
    adapters: bool = False  # adapters alone are trained
    average: bool = False  # a moving average of the trained weights is kept
    base: str = "float32"  # number format of the frozen weights, or of all where all are trained
    optimizer: str = "adamw"
    recomputed: bool = False  # the backward pass computes the policy's activations again
    first_pass: bool = False  # the policy sees the step's pairs once before: their losses depend on one another
    shards: int = 1  # workers that share weights, gradients and optimizer state


def layout(config: TrainConfig) -> Layout:
    """Return the layout that the settings ask for."""
    share = config.data.global_batch // config.workers
    adapters = config.policy.lora_rank > 0
    return Layout(
        reference=config.objective.needs_reference and config.data.reference is None,
        held=config.data.reference is None and not (adapters and config.reference_model is None),
        adapters=adapters,
        base=config.policy.base_precision,
        average=config.policy.ema_decay is not None,
        optimizer=config.optimizer.optimizer,
        recomputed=config.sharding.activation_checkpointing,
        shards=config.workers if config.sharding.sharding == "fsdp" else 1,
        first_pass=config.objective.needs_whole_step and share > config.data.micro_batch,
    )


def print_plan(config: TrainConfig, asked: DryRunConfig) -> None:
    """Print what a run would take.

    Raises:
        UserError: if the settings do not fit each other or the store.
    """
    folder = planned.settings_folder(config.start)
    path = files.resolve(config.data.store)
    config = fit_batch(config)
    is_finished = files.exists(files.join(path, store.MANIFEST))
    is_there = path != files.resolve(DataConfig().store) or is_finished
    if config.data.source is not None and not is_finished:
        manifest = _of_source(config, folder, asked)
        counts = {0: _trained_on(config, manifest)}
        config = fit_to(config, (counts[0],))
        refuse_few(config, counts[0])
    elif is_there:
        manifest, counts = check_settings(config)
    else:
        manifest = _pick_a_pic(config, folder)
        counts = {0: _trained_on(config, manifest)}
    validation = config.validation
    if validation.validation_prompts:
        from labelers.scoring import scorers

        if validation.validation_weights != scorers.PUBLISHED:  # which a dry run does not fetch
            scorers.check(validation.validation_scorer, validation.validation_weights)
    network = counted_network(config, folder, manifest, counts)
    rows = plan_rows(config, asked, manifest, tuple(counts.values()), network)
    print(dry_run.table(rows), flush=True)


def _of_source(config: TrainConfig, folder: Path, asked: DryRunConfig) -> store.Manifest:
    """Print what the encoding of --source would take, and describe the store that it gives."""
    encode_source.check(config)
    encoder = encode_source.encoding(config)
    print(f"--source {encoder.source}: first it is encoded into --store {encoder.store}", flush=True)
    rows = encode_plan.print_plan(encoder, asked)
    print("then:", flush=True)
    return planned.planned_store(
        folder, encoder.resolution, encoder.max_tokens, rows.kept, rows.prompts, images=rows.encoded
    )


def _pick_a_pic(config: TrainConfig, folder: Path) -> store.Manifest:
    """Describe the store that a preset's encoding of Pick-a-Pic gives, and say that it is not there yet."""
    check_flags(config)
    print(f"--store {config.data.store}: is not there yet; one of Pick-a-Pic v2 is counted", file=sys.stderr)
    sides = (model.resolution for model in MODELS.values() if model.hub_name == config.model)
    return planned.planned_store(folder, next(sides, None), None, planned.PAIRS, planned.CAPTIONS)


def counted_network(
    config: TrainConfig,
    folder: Path,
    manifest: store.Manifest,
    counts: Mapping[int, int] | None = None,
    further: bool = True,
) -> Network:
    """Return the network's work and memory on inputs of the store's shapes, counted now or before.

    Args:
        folder: of the model's settings.
        counts: pairs by the place of their bucket among the manifest's; by default all have its first shape.
        further: also count what further pairs at once would take, which is as much work again.

    Raises:
        UserError: if the model cannot be trained, or does not take them.
    """
    counts = counts or {0: 1}
    shapes = [manifest.shapes[place] for place in counts]
    asked = {
        "shapes": shapes,
        "embeddings": manifest.embeddings,
        "pairs": config.data.micro_batch,
        "schedule": asdict(config.schedule),
        "policy": asdict(config.policy),
        "sharding": asdict(config.sharding),
        "precision": config.precision,
        "further": further,
    }

    def count() -> dict[str, Any]:
        from training.run import network_count  # which loads the libraries of networks

        return asdict(network_count.count_network(config, folder, manifest, shapes, further))

    counted = kept_counts.kept(folder, "network", asked, count)
    works = zip(counted["forwards"], counts.values(), strict=True)
    others = {name: value for name, value in counted.items() if name != "forwards"}
    return Network(forward=sum(work * pairs for work, pairs in works) / sum(counts.values()), **others)


def plan_rows(
    config: TrainConfig, asked: DryRunConfig, manifest: store.Manifest, counts: Sequence[int], network: Network
) -> list[Row]:
    """Lay out the plan.

    Args:
        counts: pairs that the label set decides, in each bucket.
    """
    data = config.data
    laid_out = layout(config)
    pair = pair_work(laid_out, network.forward)
    judged = validation_work(config, held_out_pairs(config, manifest), network.forward)
    training = config.steps * data.global_batch * sum(work for _, work in pair)
    per_epoch = steps_an_epoch(counts, data.global_batch, data.micro_batch)
    mode = "batched" if laid_out.reference else "cached"
    label = f"activations of {2 * data.micro_batch} images, {config.precision} (estimate)"
    held = [*memory(laid_out, network), (label, float(network.activations))]
    return [
        ("pairs", f"{sum(counts):,} of --labels {data.labels}"),
        *([("  buckets", bucket_row(counts, data.global_batch, data.micro_batch))] if manifest.buckets else []),
        ("steps", f"{config.steps:,} of {data.global_batch:,} pairs, {config.workers} x {data.micro_batch} at once"),
        ("epochs", f"{config.steps / per_epoch:,.3g} of {per_epoch:,} steps"),
        *store_rows(manifest),
        ("parameters", f"{network.parameters:,}"),
        ("  trained", f"{network.trained:,}"),
        *dry_run.memory_rows(held, asked.card),
        ("pairs at once that fit", fitting_row(fitting(sum(size for _, size in held), data.micro_batch, network))),
        *dry_run.flop_rows("pair", pair),
        ("TFLOP of training", f"{training / 1e12:,.4g}"),
        ("TFLOP of validation", f"{judged / 1e12:,.4g} (the network alone; decoding and scoring are not counted)"),
        *dry_run.cost_rows(asked, training + judged, config.workers, mode, config.precision),
    ]


def bucket_row(counts: Sequence[int], global_batch: int, micro_batch: int) -> str:
    """Say how many buckets pairs are in, and how many an epoch leaves out where micro-batches and steps end."""
    in_pieces = usable(counts, micro_batch)
    taken = steps_an_epoch(counts, global_batch, micro_batch) * global_batch
    return (
        f"{len(counts)}; each epoch leaves out {sum(counts) - taken:,} pairs: {sum(counts) - in_pieces:,} fill no "
        f"micro-batch of one shape, and {in_pieces - taken:,} no step"
    )


def fitting(held: float, pairs: int, network: Network) -> list[int]:
    """Count the pairs at once that fit on a card, for each of CARDS.

    Args:
        held: bytes that a micro-batch of `pairs` takes in all.
    """
    fixed = held - pairs * network.more_pairs
    return [max(0, math.floor((card * 1e9 - fixed) / network.more_pairs)) for card in CARDS]


def fitting_row(pairs: Sequence[int]) -> str:
    """Write how many pairs at once fit on each of CARDS."""
    return ", ".join(f"{count:,} in {card} GB" for card, count in zip(CARDS, pairs, strict=True))


def store_rows(manifest: store.Manifest) -> list[Row]:
    """Lay out the store's bytes, as its files have them."""

    def size(part: str) -> float:
        return sum(float(about["bytes"]) for name, about in manifest.files.items() if name.startswith(part))

    return [
        ("store", dry_run.gigabytes(size(""))),
        ("  embeddings and captions", dry_run.gigabytes(size("prompts/"))),
        ("kept on each node's disk", _kept_on_nodes(manifest)),
    ]


def _kept_on_nodes(manifest: store.Manifest) -> str:
    if not is_addressable(manifest):
        return f"{dry_run.gigabytes(staged_bytes(manifest))}, a copy, because this store has no index"
    return f"none, or of a store on S3 its index, {dry_run.gigabytes(index_bytes(manifest))}"


def pair_work(laid_out: Layout, forward: float) -> list[tuple[str, float]]:
    """Return the FLOPs of one pair's training by part; forward: FLOPs of one image's forward pass."""
    backward = ("policy, backward to the adapters", 2 * forward)
    if not laid_out.adapters:
        backward = ("policy, backward, twice that", 4 * forward)
    parts = [("policy, forward of 2 images", 2 * forward), backward]
    if laid_out.recomputed:
        parts.append(("policy, forward again for the backward", 2 * forward))
    if laid_out.reference:
        parts.append(("reference, forward of 2 images", 2 * forward))
    if laid_out.first_pass:
        parts.append(("policy, forward of 2 images before the step's losses", 2 * forward))
    return parts


def memory(laid_out: Layout, network: Network) -> list[tuple[str, float]]:
    """Return the bytes of weights and their like on each accelerator, by part."""
    weights = (network.frozen if laid_out.adapters else FLOAT32 * network.parameters) / laid_out.shards
    trained_weights = FLOAT32 * network.trained / laid_out.shards
    moments = {
        "adamw": ("optimizer state, two float32 a weight", 2 * trained_weights),
        "adamw8bit": ("optimizer state, two bytes a weight", trained_weights / 2),
        "adafactor": ("optimizer state, two float32 vectors a matrix, on each", FLOAT32 * network.factors),
    }
    parts = [(f"weights, {laid_out.base}", weights)]
    if laid_out.adapters:
        parts.append(("adapters, float32", trained_weights))
    parts += [("gradients, float32", trained_weights), moments[laid_out.optimizer]]
    if laid_out.average:
        parts.append(("average of the trained weights, float32", trained_weights))
    return [*parts, (f"reference, {laid_out.base}", weights)] if laid_out.reference and laid_out.held else parts


def held_out_pairs(config: TrainConfig, manifest: store.Manifest) -> int:
    """Return how many pairs are held out; of --hold-out about so many, as captions have unlike numbers of pairs.

    Args:
        manifest: of the store that is trained on, which may be planned only.
    """
    data = config.data
    if data.held_out_store:
        return store.read_manifest(files.resolve(data.held_out_store)).counts.kept
    return round(data.hold_out * manifest.counts.kept)


def _trained_on(config: TrainConfig, manifest: store.Manifest) -> int:
    """Return about how many pairs of a planned store are trained on."""
    return manifest.counts.kept - round(config.data.hold_out * manifest.counts.kept)


def validation_work(config: TrainConfig, kept: int, forward: float) -> float:
    """Return the FLOPs of all assessments: held-out pairs, and validation images drawn, in forward passes of one image.

    An image takes a pass each sampling step, and two with guidance. FLUX's guidance is an input of its one pass; there
    this is twice too much.
    """
    validation = config.validation
    times = 1 + math.ceil(config.steps / config.checkpoint_every)
    passes = 0.0
    if kept:
        watched = min(kept, validation.held_out_pairs) * validation.held_out_draws
        passes += 2 * watched * (times + 1)  # policy each time, reference once
        passes += 4 * kept * REWARD_DRAWS  # both, for the final figure
    if validation.validation_prompts:
        captions = len(read_prompts(files.resolve(validation.validation_prompts)))
        drawn = times * captions * validation.validation_images
        passes += drawn * validation.sampling_steps * (2 if validation.guidance_scale > 1 else 1)
    return passes * forward
