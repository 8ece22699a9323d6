"""Which layouts go together, and what is refused before a network is loaded."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
from support.material import MODEL

from infra.base import (
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from training.backbones.diffusion import StableDiffusion
from training.layout import sharding
from training.method.optimizer_config import OptimizerConfig
from training.run import preflight
from training.settings import flags
from training.settings.config import TrainConfig
from training.settings.presets import PRESETS

FSDP = sharding.ShardingConfig(sharding="fsdp")


def test_timesteps_keep_their_precision() -> None:
    times, latents = torch.tensor([997.3, 3.0]), torch.rand(2, 4, 1, 1)
    (noisy,), told = sharding.cast_inputs(torch.bfloat16, torch.nn.Module(), (latents,), {"timestep": times, "n": 3})
    assert torch.equal(noisy, latents.bfloat16())
    assert told["timestep"] is times
    assert told["n"] == 3


def test_channels_last_goes_with_unets_and_whole_networks(config: TrainConfig) -> None:
    network = StableDiffusion(MODEL).load_network()
    sharding.prepare(sharding.ShardingConfig(channels_last=True), network, torch.float32, torch.device("cpu"), 1)
    assert network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    both = replace(config, sharding=replace(FSDP, channels_last=True))
    with pytest.raises(UserError, match="--channels-last: shards have no such layout"):
        preflight.check_config(both)


def test_8_bit_state_is_refused_for_shards(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())  # as if bitsandbytes were installed
    with pytest.raises(UserError, match="--sharding fsdp: the state of --optimizer adamw8bit has no shards"):
        flags.check_flags(replace(config, sharding=FSDP, optimizer=OptimizerConfig(optimizer="adamw8bit")))


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_presets_can_be_sharded(name: str) -> None:
    flags.check_flags(replace(PRESETS[name], sharding=FSDP))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"workers": 3}, "--global-batch 8: not a multiple of 3 workers"),
        ({"workers": 3, "min_workers": 4}, "--min-workers 4: from 1 to --workers 3"),
        ({"workers": 9, "min_workers": 1}, "--global-batch 8: fewer pairs than --workers 9"),
    ],
)
def test_world_sizes_that_cannot_share_a_batch_are_refused(
    config: TrainConfig, changes: dict[str, int], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        flags.check_batch(replace(config, **changes))  # type: ignore[arg-type]
    flags.check_batch(replace(config, workers=3, min_workers=2))
    ones = replace(config, workers=3, min_workers=2, data=replace(config.data, micro_batch=1))
    with pytest.raises(UserError, match="--micro-batch 1: 3 of --min-workers 2 to --workers 3 does not divide"):
        flags.check_batch(ones)
