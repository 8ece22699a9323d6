"""What the trainer's dry run counts of a network on the meta device: parameters, FLOPs, the memory of a micro-batch.

This loads the libraries of networks; plan.py asks for it through infra/base/kept_counts.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from infra.base import counting
from infra.base.errors import UserError
from pipelines.latents import store
from pipelines.latents.kinds import kind_of
from training.backbones.backbone import Backbone, open_backbone
from training.layout import base_precision
from training.method import forward
from training.method.policy import add_adapters, trained
from training.settings.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What is counted of a network; plan.Network says what each number is."""

    parameters: int
    trained: int
    factors: int
    forwards: Sequence[float]  # FLOPs of one image's forward pass, by shape
    activations: int
    more_pairs: float
    frozen: int


def count_network(
    config: TrainConfig,
    folder: Path,
    manifest: store.Manifest,
    shapes: Sequence[tuple[int, int, int]],
    further: bool = True,
) -> Counts:
    """Count a network on the meta device, on inputs of the store's shapes.

    Args:
        folder: of the model's settings.
        shapes: (C, H, W) of the latents that are trained on; a micro-batch's memory is that of the largest.
        further: also count what further pairs at once would take, which is as much work again.

    Raises:
        UserError: if the model cannot be trained, or does not take them.
    """
    backbone = open_backbone(folder, config.schedule)
    network = counting.empty(folder, backbone.network_folder)
    parameters = counting.parameters(network)
    pairs = config.data.micro_batch
    largest = max(shapes, key=math.prod)
    try:
        with torch.no_grad():
            works = [counting.flops(forward_pass(backbone, network, manifest, shape)) for shape in shapes]
        lay_out(network, backbone, config)
        recomputed = config.sharding.activation_checkpointing
        peaks = [
            counting.peak_bytes(
                network, errors_pass(backbone, network, manifest, largest, some), config.autocast, recomputed
            )
            for some in ((pairs, 2 * pairs) if further else (pairs,))
        ]
    except (RuntimeError, ValueError, KeyError) as error:
        sizes = {"latents": manifest.latent_shape, **manifest.embeddings}
        raise UserError(
            f"--model {config.model}: its {backbone.network_folder} does not take what --store {config.data.store} "
            f"holds ({', '.join(f'{name} {list(shape)}' for name, shape in sizes.items())})"
        ) from error
    trained_shapes = [weight.shape for weight in trained(network).values()]
    return Counts(
        parameters=parameters,
        trained=sum(map(math.prod, trained_shapes)),
        factors=sum(map(adafactor_state, trained_shapes)),
        forwards=works,
        activations=peaks[0],
        more_pairs=(peaks[1] - peaks[0]) / pairs if further else 0.0,
        frozen=frozen_bytes(network, config.sharding.offload == "blocks"),
    )


def lay_out(network: torch.nn.Module, backbone: Backbone, config: TrainConfig) -> None:
    """Give a network on the meta device its adapters, and its frozen weights their precision, as make_policy does."""
    if config.policy.lora_rank:
        with counting.META:
            add_adapters(network, config.policy, config.seed, kind_of(backbone.folder).lora)
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
    backbone: Backbone, network: torch.nn.Module, manifest: store.Manifest, shape: tuple[int, int, int]
) -> Callable[[], torch.Tensor]:
    """Return a forward pass of a network on one image of a store, of a shape, on the meta device."""
    with counting.META:
        noisy = torch.empty(1, *shape)
        timesteps = torch.empty(1, dtype=torch.int64)
        conditioning = {name: torch.empty(1, *size) for name, size in manifest.embeddings.items()}
    return lambda: backbone.predict(network, noisy, timesteps, conditioning)


def errors_pass(
    backbone: Backbone,
    network: torch.nn.Module,
    manifest: store.Manifest,
    shape: tuple[int, int, int],
    pairs: int,
) -> Callable[[], torch.Tensor]:
    """Return what makes a micro-batch of so many pairs of a shape on the meta device, and the policy's errors on it."""
    batch: dict[str, torch.Tensor] = {}  # lies there until the step ends

    def errors() -> torch.Tensor:
        with counting.META:
            batch["latents"] = torch.empty(2 * pairs, *shape)
            batch["noise"] = torch.empty(pairs, *shape)
            batch.update({name: torch.empty(pairs, *size) for name, size in manifest.embeddings.items()})
            timesteps = torch.zeros(2 * pairs, dtype=torch.int64)
            conditioning = {name: torch.cat([batch[name], batch[name]]) for name in manifest.embeddings}
        latents = batch["latents"]
        noise = batch["noise"].repeat(2, 1, 1, 1)
        target = backbone.target(latents, noise, timesteps)
        noisy = latents + noise  # as large as the backbone's own mixture, which asks autocast for its dtype
        return forward.errors(backbone.predict(network, noisy, timesteps, conditioning), target)

    return errors
