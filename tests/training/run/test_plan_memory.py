"""The memory that a dry run counts, held to what a micro-batch's forward and backward pass really allocates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.random_batches import random_batch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from infra.base import counting
from pipelines.latents import planned
from training.backbones.backbone import open_backbone
from training.backbones.schedule_config import EVERY
from training.layout import sharding
from training.layout.sharding_config import ShardingConfig
from training.method import forward
from training.method.batch import Batch
from training.method.policy import make_policy
from training.method.policy_config import PolicyConfig
from training.run import network_count
from training.settings.config import DataConfig, TrainConfig

Pipelines = Callable[[str], Path]
CPU = torch.device("cpu")
SIDE = 32  # of the images, in pixels: activations then outweigh the weights, as they do at true sizes


def measured(errors: Callable[[Batch], torch.Tensor], batch: Batch) -> int:
    """Return the peak of what torch's allocator gives away during a step's second micro-batch, in bytes.

    The first one's gradients are there by then, beside the batch. Only tensors count, see tensors_alone.
    """
    errors(batch).sum().backward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        errors(batch).sum().backward()
    assert seen.profiler is not None
    results = seen.profiler.kineto_results
    assert results is not None
    held = 0
    peak = 0
    for size in tensors_alone(results.experimental_event_tree()):
        held += size
        peak = max(peak, held)
    return peak


def tensors_alone(roots: Iterable[Any]) -> Iterator[int]:
    """Yield the bytes of each allocation, or minus those of each release, in the order of time.

    Two things that no GPU takes are left out. A CPU's convolutions unroll or reorder what they read, in blocks that
    they give back before they end; a GPU's workspaces are others, and the plan has none. And activation checkpointing
    keeps the CPU generator's state for each block: 5 kB that no operation asks for.
    """
    found = [(event, within) for root in roots for event, within in allocations(root, None)]
    found.sort(key=lambda one: one[0].start_time_ns)
    held: dict[int, tuple[int, int | None]] = {}  # by address: the place in `found`, and the convolution within which
    others: set[int] = set()
    for place, (event, within) in enumerate(found):
        fields = event.extra_fields
        if fields.alloc_size > 0:
            held[fields.ptr] = (place, within)
            if event.parent is None:
                others.add(place)
        elif fields.ptr in held:
            taken, by = held.pop(fields.ptr)
            if taken in others or (by is not None and by == within):
                others |= {taken, place}
    yield from (event.extra_fields.alloc_size for place, (event, _) in enumerate(found) if place not in others)


def allocations(event: Any, within: int | None) -> Iterator[tuple[Any, int | None]]:
    """Yield the allocations and releases below an event, each with the id of the convolution that it is within."""
    if event.tag == _EventType.Allocation:
        yield event, within
        return
    if within is None and "convolution" in event.name:
        within = event.id
    for child in event.children:
        yield from allocations(child, within)


def check_count(folder: Path, policy: PolicyConfig, recomputed: bool, pairs: int, side: int) -> None:
    """Compare what the plan counts with what a micro-batch takes, within 5 %."""
    config = TrainConfig(
        model=str(folder),
        precision="bfloat16",
        policy=policy,
        data=DataConfig(micro_batch=pairs),
        sharding=ShardingConfig(activation_checkpointing=recomputed),
    )
    backbone = open_backbone(folder, EVERY)
    batch = random_batch(folder, pairs, side)
    manifest = planned.planned_store(folder, side, None, 10, 5)
    columns = {name: tuple(value.shape[1:]) for name, value in batch.conditioning.items()}
    counted = network_count.count_network(config, folder, replace(manifest, embeddings=columns), manifest.shapes)
    network = make_policy(policy, backbone, 0, CPU)
    assert sum(weight.nbytes for weight in network.parameters() if not weight.requires_grad) == counted.frozen
    sharding.prepare(config.sharding, network, config.autocast, CPU, 1)
    held = sum(value.nbytes for value in (batch.latents, batch.noise, *batch.conditioning.values()))
    activations = held + measured(lambda one: forward.pair_errors(backbone, network, one, config.autocast), batch)
    assert counted.activations == pytest.approx(activations, rel=0.05)


@pytest.fixture
def norms_stay_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count as autocast computes on a CPU, which leaves norms as they are."""
    monkeypatch.setattr(counting.Autocast, "wide", ())


@pytest.mark.slow
@pytest.mark.usefixtures("norms_stay_narrow")
@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize(
    ("kind", "policy"),
    [
        ("flux", PolicyConfig()),
        ("flux", PolicyConfig(lora_rank=4)),
        ("flux", PolicyConfig(lora_rank=4, base_precision="bfloat16")),
        ("flux", PolicyConfig(lora_rank=4, base_precision="fp8")),
        ("sdxl", PolicyConfig(lora_rank=4, base_precision="bfloat16")),
    ],
)
def test_the_counted_peak_is_the_measured_one(
    kind: str, policy: PolicyConfig, recomputed: bool, tiny_pipeline: Pipelines
) -> None:
    check_count(tiny_pipeline(kind), policy, recomputed, 2, SIDE)
