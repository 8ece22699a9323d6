"""The memory that a dry run counts, held to what a micro-batch's forward and backward pass really allocates."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

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
# Networks of 50 million weights and more, in place of a tiny pipeline's.
MID_SIZE: dict[str, dict[str, Any]] = {
    "flux": {
        "num_layers": 3,
        "num_single_layers": 6,
        "num_attention_heads": 4,
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
    },
    "sdxl": {
        "block_out_channels": [192, 384],
        "layers_per_block": 2,
        "attention_head_dim": [3, 6],
        "norm_num_groups": 32,
        "transformer_layers_per_block": [1, 4],
    },
}


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


def check_count(
    folder: Path,
    precision: Literal["float32", "bfloat16"],
    policy: PolicyConfig,
    recomputed: bool,
    pairs: int,
    side: int,
) -> None:
    """Compare what the plan counts with what a micro-batch takes, within 5 %."""
    config = TrainConfig(
        model=str(folder),
        precision=precision,
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
    check_count(tiny_pipeline(kind), "bfloat16", policy, recomputed, 2, SIDE)


@pytest.mark.long
@pytest.mark.usefixtures("norms_stay_narrow")
@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("policy", [PolicyConfig(), PolicyConfig(lora_rank=16)])
@pytest.mark.parametrize("kind", MID_SIZE)
def test_so_it_is_in_a_network_of_50_million_weights(
    kind: str, policy: PolicyConfig, recomputed: bool, tiny_pipeline: Pipelines, tmp_path: Path
) -> None:
    folder = tmp_path / "wide"
    shutil.copytree(tiny_pipeline(kind), folder)
    name = open_backbone(folder, EVERY).network_folder
    path = folder / name / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | MID_SIZE[kind]))
    network: Any = counting.make(folder, name)
    assert counting.parameters(network) >= 50_000_000
    network.save_pretrained(folder / name)
    check_count(folder, "float32", policy, recomputed, 1, 64)  # a CPU takes minutes in bfloat16
