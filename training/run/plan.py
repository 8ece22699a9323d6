"""The trainer's plan, which a dry run prints: steps, memory, arithmetic and cost.

It is made from the store's manifest and the network's settings; no weights are read.

Let F be the FLOPs of one image's forward pass of the network, counted (infra/base/counting.py). A pair costs the policy
2 F forward and twice that backward, the reference 2 F, and recomputation under activation checkpointing 2 F more. With
adapters the backward pass is one F an image: gradients pass through the frozen weights, which need none of their own.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from infra.base import counting, dry_run, files
from infra.base.dry_run import DryRunConfig, Row
from infra.base.errors import UserError
from labelers.scoring import scorers
from pipelines.drawing.prompts import read_prompts
from pipelines.latents import encode_plan, planned, store
from pipelines.latents.addresses import index_bytes
from pipelines.latents.kinds import native_resolution
from pipelines.latents.models_known import MODELS
from training.backbones.backbone import Backbone, open_backbone
from training.data.direct import is_addressable
from training.data.staging import staged_bytes
from training.layout import base_precision
from training.method import forward
from training.method.draws import REWARD_DRAWS
from training.method.order import steps_an_epoch, usable
from training.method.policy import add_adapters, trained
from training.run import encode_source
from training.run.preflight import check_settings, fit_batch
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
    forward: float  # FLOPs of one image's forward pass
    activations: int  # bytes at the peak of a micro-batch's forward and backward pass, autocast's weights among them
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
        counts: tuple[int, ...] = (_trained_on(config, manifest),)
    elif is_there:
        manifest, counts = check_settings(config)
    else:
        manifest = _pick_a_pic(config, folder)
        counts = (_trained_on(config, manifest),)
    validation = config.validation
    # A dry run fetches no published weights.
    if validation.validation_prompts and validation.validation_weights != scorers.PUBLISHED:
        scorers.check(validation.validation_scorer, validation.validation_weights)
    network = count_network(open_backbone(folder, config.schedule), folder, config, manifest)
    rows = plan_rows(config, asked, manifest, counts, network)
    print(dry_run.table(rows), flush=True)


def _of_source(config: TrainConfig, folder: Path, asked: DryRunConfig) -> store.Manifest:
    """Print what the encoding of --source would take, and describe the store that it gives."""
    encode_source.check(config)
    encoder = encode_source.encoding(config)
    print(f"--source {encoder.source}: first it is encoded into --store {encoder.store}", flush=True)
    rows = encode_plan.print_plan(encoder, asked)
    print("then:", flush=True)
    return planned.planned_store(folder, encoder.resolution or native_resolution(folder), None, rows.kept, rows.prompts)


def _pick_a_pic(config: TrainConfig, folder: Path) -> store.Manifest:
    """Describe the store that a preset's encoding of Pick-a-Pic gives, and say that it is not there yet."""
    check_flags(config)
    print(f"--store {config.data.store}: is not there yet; one of Pick-a-Pic v2 is counted", file=sys.stderr)
    sides = (model.resolution for model in MODELS.values() if model.hub_name == config.model)
    side = next(sides, None) or native_resolution(folder)
    return planned.planned_store(folder, side, None, planned.PAIRS, planned.CAPTIONS)


def count_network(
    backbone: Backbone, folder: Path, config: TrainConfig, manifest: store.Manifest, further: bool = True
) -> Network:
    """Count a network on the meta device, on inputs of the store's shapes.

    Args:
        further: also count what further pairs at once would take, which is as much work again.

    Raises:
        UserError: if the network does not take them.
    """
    network = counting.empty(folder, backbone.network_folder)
    parameters = counting.parameters(network)
    pairs = config.data.micro_batch
    try:
        with torch.no_grad():
            work = counting.flops(forward_pass(backbone, network, manifest, 1))
        lay_out(network, backbone, config)
        recomputed = layout(config).recomputed
        peaks = [
            counting.peak_bytes(network, errors_pass(backbone, network, manifest, some), config.autocast, recomputed)
            for some in ((pairs, 2 * pairs) if further else (pairs,))
        ]
    except (RuntimeError, ValueError, KeyError) as error:
        shapes = {"latents": manifest.latent_shape, **manifest.embeddings}
        raise UserError(
            f"--model {config.model}: its {backbone.network_folder} does not take what --store {config.data.store} "
            f"holds ({', '.join(f'{name} {list(shape)}' for name, shape in shapes.items())})"
        ) from error
    trained_shapes = [weight.shape for weight in trained(network).values()]
    return Network(
        parameters=parameters,
        trained=sum(map(math.prod, trained_shapes)),
        factors=sum(map(adafactor_state, trained_shapes)),
        forward=work,
        activations=peaks[0],
        more_pairs=(peaks[1] - peaks[0]) / pairs if further else 0.0,
        frozen=frozen_bytes(network, config.sharding.offload == "blocks"),
    )


def lay_out(network: torch.nn.Module, backbone: Backbone, config: TrainConfig) -> None:
    """Give a network on the meta device its adapters, and its frozen weights their precision, as make_policy does."""
    if config.policy.lora_rank:
        with counting.META:
            add_adapters(network, config.policy, config.seed)
    backbone.freeze_idle(network)
    if config.policy.lora_rank:
        base_precision.lower(network, config.policy.base_precision, counting.META)


def frozen_bytes(network: torch.nn.Module, offload: bool) -> int:
    """Count the bytes of frozen weights on a device; of offloaded blocks those of the two that are there at once."""
    total = sum(weight.nbytes for weight in network.parameters() if not weight.requires_grad)
    if not offload:
        return total
    blocks = base_precision.block_bytes(network)
    return total - sum(blocks) + sum(sorted(blocks)[-2:])


def adafactor_state(shape: Sequence[int]) -> int:
    """Count what transformers' Adafactor keeps of a weight: means over its last axis, and over the one before.

    It factors the last two axes alone. Of a 3 x 3 convolution it so keeps two thirds as many numbers as there are
    weights, of a 1 x 1 convolution twice as many.
    """
    size = math.prod(shape)
    return size // shape[-1] + size // shape[-2] if len(shape) > 1 else size


def forward_pass(
    backbone: Backbone, network: torch.nn.Module, manifest: store.Manifest, images: int
) -> Callable[[], torch.Tensor]:
    """Return a forward pass of a network on so many images of a store's largest shape, on the meta device."""
    with counting.META:
        noisy = torch.empty(images, *max(manifest.shapes, key=math.prod))
        timesteps = torch.empty(images, dtype=torch.int64)
        conditioning = {name: torch.empty(images, *shape) for name, shape in manifest.embeddings.items()}
    return lambda: backbone.predict(network, noisy, timesteps, conditioning)


def errors_pass(
    backbone: Backbone, network: torch.nn.Module, manifest: store.Manifest, pairs: int
) -> Callable[[], torch.Tensor]:
    """Return what makes a micro-batch of so many pairs on the meta device, and then the policy's errors on it."""
    batch: dict[str, torch.Tensor] = {}  # lies there until the step ends

    def errors() -> torch.Tensor:
        with counting.META:
            batch["latents"] = torch.empty(2 * pairs, *manifest.latent_shape)
            batch["noise"] = torch.empty(pairs, *manifest.latent_shape)
            batch.update({name: torch.empty(pairs, *shape) for name, shape in manifest.embeddings.items()})
            timesteps = torch.zeros(2 * pairs, dtype=torch.int64)
            conditioning = {name: torch.cat([batch[name], batch[name]]) for name in manifest.embeddings}
        latents = batch["latents"]
        noise = batch["noise"].repeat(2, 1, 1, 1)
        target = backbone.target(latents, noise, timesteps)
        noisy = latents + noise  # as large as the backbone's own mixture, which asks autocast for its dtype
        return forward.errors(backbone.predict(network, noisy, timesteps, conditioning), target)

    return errors


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
        *([("  buckets", bucket_row(counts, data.micro_batch))] if manifest.buckets else []),
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


def bucket_row(counts: Sequence[int], micro_batch: int) -> str:
    """Say how many buckets pairs are in, and how many an epoch leaves out where whole micro-batches end."""
    left_out = sum(counts) - usable(counts, micro_batch)
    return f"{len(counts)}; each epoch leaves out {left_out:,} pairs that fill no micro-batch of one shape"


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
