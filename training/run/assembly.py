"""Everything one rank holds while it trains: data, models and their layout, put together from the settings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from infra.base import cpu, files
from training.backbones.backbone import Backbone, open_backbone
from training.checkpoints.checkpoint_writer import CheckpointWriter
from training.checkpoints.mirror import Mirror, open_mirror
from training.data import hold_out
from training.data.applied_labels import Labelled, apply_labels
from training.data.opened import open_store
from training.layout import base_precision, sharding
from training.method import forward
from training.method.optimizer_config import check_optimizer
from training.method.optimizers import make_optimizer
from training.method.policy import AdaptersOff, Average, make_policy, trained
from training.reference.reference_errors import attach
from training.run import reward, trackers
from training.run.assessment import held_out
from training.run.journal import Journal
from training.settings.config import TrainConfig

if TYPE_CHECKING:
    from pipelines.latents.store import Manifest
    from training.run.validation import Drawer, Validator


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Where this process stands among the workers."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    on_step: Callable[[dict[str, Any]], None] = lambda _: None
    """Called after each step with its note."""
    on_checkpoint: Callable[[dict[str, float]], None] = lambda _: None
    """Called on the writing thread when a checkpoint is complete, with its step and times in seconds."""
    on_more_to_see: Callable[[TrainConfig, Path, int], None] = lambda *_: None
    """Called on rank 0 when there is more to see of the run: with its settings, folder and number of pairs."""
    leaving: Callable[[], tuple[str, ...]] = tuple
    """Called after each step; returns, alike on every rank, the nodes that will soon be taken away."""


@dataclass(kw_only=True)
class Trainer:
    """Everything one rank holds while it trains."""

    config: TrainConfig
    rank: Rank
    output: Path  # the run folder, or this node's copy of one on S3
    mirror: Mirror | None  # where the run folder is on S3
    backbone: Backbone
    data: Labelled
    policy: torch.nn.Module
    reference: forward.Reference
    optimizer: torch.optim.Optimizer
    average: Average | None  # of the trained weights; where there is one, it is judged and becomes the result
    validator: Validator | None
    sampler: Drawer | None  # of --sample-prompts
    held_out: reward.HeldOut | None
    journal: Journal
    writer: CheckpointWriter
    held_out_reference_errors: torch.Tensor | None = None  # [2, repeats, pairs] float32

    def judged(self) -> contextlib.AbstractContextManager[None]:
        """Let the policy have the weights that are judged: their average where one is kept."""
        return self.average.in_place() if self.average else contextlib.nullcontext()

    def gathered(self) -> contextlib.AbstractContextManager[None]:
        """Hold sharded networks whole for a while, without backward passes."""
        frozen = [self.reference.network] if isinstance(self.reference, forward.NetworkReference) else []
        return sharding.gathered([self.policy, *frozen])


def build(config: TrainConfig, rank: Rank) -> Trainer:
    """Load data and models onto this rank's device."""
    if rank.device.type == "cpu":
        cpu.keep_freed_memory()
    check_optimizer(config.optimizer, rank.device)
    sharding.check_compiler(config.sharding)
    torch.manual_seed(config.seed)  # nothing below should need it; draws have generators of their own
    backbone = open_backbone(config.start.folder(), config.schedule)
    mirror = open_mirror(config)
    output = mirror.local if mirror else Path(files.resolve(config.output))
    data = open_pairs(config)
    offload = config.sharding.offload == "blocks"
    policy = make_policy(config.policy, backbone, config.seed, rank.device, offload)
    sharding.prepare(config.sharding, policy, config.autocast, rank.device, rank.world_size)
    reference = make_reference(config, backbone, policy, rank)
    optimizer = make_optimizer(config.optimizer, trained(policy).values(), rank.device)
    average = Average(config.policy.ema_decay, policy) if config.policy.ema_decay is not None else None
    validator, sampler = _drawers(config, backbone, policy, data.pairs.manifest, rank)
    return Trainer(
        config=config,
        rank=rank,
        output=output,
        mirror=mirror,
        backbone=backbone,
        data=data,
        policy=policy,
        reference=reference,
        optimizer=optimizer,
        average=average,
        validator=validator,
        sampler=sampler,
        held_out=held_out(config, rank, config.validation.held_out_draws, config.validation.held_out_pairs),
        journal=_journal(config, output, rank, backbone, data.pairs.manifest),
        writer=CheckpointWriter(files.resolve(config.output), rank.world_size),
    )


def _drawers(
    config: TrainConfig, backbone: Backbone, policy: torch.nn.Module, manifest: Manifest, rank: Rank
) -> tuple[Validator | None, Drawer | None]:
    """Make what draws with the policy; a run that draws nothing imports neither pipelines nor scorers."""
    if not config.validation.draws:
        return None, None
    from training.run.validation import make_drawers

    return make_drawers(config.validation, backbone, policy, manifest, rank.rank, rank.world_size, config.autocast)


def _journal(config: TrainConfig, output: Path, rank: Rank, backbone: Backbone, manifest: Manifest) -> Journal:
    most = None
    if rank.rank == 0 and rank.device.type == "cuda":
        from training.run.utilisation import most_pairs_per_second  # imports what plans a run

        most = most_pairs_per_second(config, backbone, manifest, rank.device, rank.world_size)
    report = partial(trackers.start, config)
    return Journal(output, enabled=rank.rank == 0, steps=config.steps, most_pairs_per_second=most, report=report)


def open_pairs(config: TrainConfig) -> Labelled:
    """Open the pairs that are trained on: the store, its cached reference errors, its labels, none held out."""
    path = files.resolve(config.data.store)
    pairs = attach(open_store(path, config.data.cache), path, config.data.reference)
    data = apply_labels(pairs, path, config.data.labels, soft=config.objective.objective == "soft")
    return hold_out.split(data, config.data.hold_out)[0] if config.data.hold_out else data


def make_reference(config: TrainConfig, backbone: Backbone, policy: torch.nn.Module, rank: Rank) -> forward.Reference:
    """Return the frozen reference, laid out as the policy is.

    A policy with adapters is its own reference, with these off, unless --reference-model names another model.
    """
    if config.policy.lora_rank and config.reference_model is None:
        return AdaptersOff(backbone, policy, config.autocast)
    backbone = open_backbone(config.reference.folder(), config.schedule)
    network = backbone.load_network().requires_grad_(False)
    network = base_precision.lower(
        network, config.policy.base_precision, rank.device, config.sharding.offload == "blocks"
    )
    sharding.prepare(config.sharding, network, config.autocast, rank.device, rank.world_size)
    return forward.NetworkReference(backbone, network, config.autocast)
