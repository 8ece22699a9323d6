"""The memory that a dry run counts, held to what a micro-batch's forward and backward pass really allocates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.random_batches import random_batch
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

    The first one's gradients are there by then, beside the batch.
    """
    errors(batch).sum().backward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        errors(batch).sum().backward()
    assert seen.profiler is not None
    results = seen.profiler.kineto_results
    assert results is not None
    events = [event for event in results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    held = 0
    peak = 0
    for event in events:
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@pytest.mark.slow
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
    kind: str, policy: PolicyConfig, recomputed: bool, tiny_pipeline: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting.Autocast, "wide", ())  # on a CPU autocast leaves norms as they are
    folder = tiny_pipeline(kind)
    config = TrainConfig(
        model=str(folder),
        precision="bfloat16",
        policy=policy,
        data=DataConfig(micro_batch=2),
        sharding=ShardingConfig(activation_checkpointing=recomputed),
    )
    backbone = open_backbone(folder, EVERY)
    batch = random_batch(folder, 2, SIDE)
    manifest = planned.planned_store(folder, SIDE, None, 10, 5)
    columns = {name: tuple(value.shape[1:]) for name, value in batch.conditioning.items()}
    counted = network_count.count_network(config, folder, replace(manifest, embeddings=columns), manifest.shapes)
    network = make_policy(policy, backbone, 0, CPU)
    assert sum(weight.nbytes for weight in network.parameters() if not weight.requires_grad) == counted.frozen
    sharding.prepare(config.sharding, network, config.autocast, CPU, 1)
    held = sum(value.nbytes for value in (batch.latents, batch.noise, *batch.conditioning.values()))
    activations = held + measured(lambda one: forward.pair_errors(backbone, network, one, config.autocast), batch)
    # A CPU's backward pass of a convolution copies its inputs into other layouts while it runs. A UNet that computes
    # its blocks again so takes 11 % more there than its tensors do; all others stay within 5 %.
    if kind == "sdxl":
        with counting.Live() as live:
            forward.pair_errors(backbone, network, batch, config.autocast).sum().backward()
        assert counted.activations == pytest.approx(held + live.peak, rel=0.01)  # the tensors alone
    tolerance = 0.12 if kind == "sdxl" and recomputed else 0.05
    assert counted.activations == pytest.approx(activations, rel=tolerance)
