"""The trainer's plan, which a dry run prints: steps, memory, arithmetic and cost; planned_set.py has the set's part.

It is made from the store's manifest and the network's settings; no weights are read. What network_count.py counts is
kept, so that a plan of the same settings loads no network's libraries again.

Let F be the FLOPs of one image's forward pass of the network, counted. A pair costs the policy
2 F forward and twice that backward, the reference 2 F, and recomputation under activation checkpointing 2 F more. With
adapters the backward pass is one F an image: gradients pass through the frozen weights, which need none of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.base import dry_run, files, kept_counts
from infra.base.dry_run import DryRunConfig, Row
from pipelines.drawing.prompts import read_prompts
from pipelines.latents import planned, store
from training.method.draws import REWARD_DRAWS
from training.method.order import steps_an_epoch
from training.run import planned_set
from training.settings.config import TrainConfig

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
    config, planned_on = planned_set.find(config, folder, asked)
    validation = config.validation
    if validation.validation_prompts:
        from labelers.scoring import scorers

        if validation.validation_weights != scorers.PUBLISHED:  # which a dry run does not fetch
            scorers.check(validation.validation_scorer, validation.validation_weights)
    network = counted_network(config, folder, planned_on.manifest, planned_on.counts)
    rows = plan_rows(config, asked, planned_on, network)
    print(dry_run.table(rows), flush=True)


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
    config: TrainConfig, asked: DryRunConfig, planned_on: planned_set.PlannedSet, network: Network
) -> list[Row]:
    """Lay out the plan."""
    data = config.data
    counts = tuple(planned_on.counts.values())
    laid_out = layout(config)
    pair = pair_work(laid_out, network.forward)
    judged = validation_work(config, planned_set.held_out_pairs(config, planned_on.manifest), network.forward)
    training = config.steps * data.global_batch * sum(work for _, work in pair)
    per_epoch = steps_an_epoch(counts, data.global_batch, data.micro_batch)
    mode = "batched" if laid_out.reference else "cached"
    label = f"activations of {2 * data.micro_batch} images, {config.precision} (estimate)"
    held = [*memory(laid_out, network), (label, float(network.activations))]
    return [
        *planned_set.pair_rows(planned_on, data),
        ("steps", f"{config.steps:,} of {data.global_batch:,} pairs, {config.workers} x {data.micro_batch} at once"),
        ("epochs", f"{config.steps / per_epoch:,.3g} of {per_epoch:,} steps"),
        *planned_set.store_rows(planned_on.manifest),
        ("parameters", f"{network.parameters:,}"),
        ("  trained", f"{network.trained:,}"),
        *dry_run.memory_rows(held, asked.card),
        ("pairs at once that fit", fitting_row(fitting(sum(size for _, size in held), data.micro_batch, network))),
        *dry_run.flop_rows("pair", pair),
        ("TFLOP of training", f"{training / 1e12:,.4g}"),
        ("TFLOP of validation", f"{judged / 1e12:,.4g} (the network alone; decoding and scoring are not counted)"),
        *dry_run.cost_rows(asked, training + judged, config.workers, mode, config.precision),
    ]


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
