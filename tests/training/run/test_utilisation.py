"""Model-FLOP utilisation counts what the objective asks for, and no work that is done again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infra.base import counting
from pipelines.latents import store
from training.backbones.backbone import open_backbone
from training.layout.sharding_config import ShardingConfig
from training.run import network_count, utilisation
from training.settings.config import DataConfig, TrainConfig


@pytest.mark.slow
def test_a_pair_takes_eight_forward_passes_and_lora_six(encoded_store: Path) -> None:
    config = TrainConfig(
        data=DataConfig(store=str(encoded_store)), sharding=ShardingConfig(activation_checkpointing=True)
    )
    backbone = open_backbone(config.start.folder(), config.schedule)
    manifest = store.read_manifest(str(encoded_store))
    network = counting.empty(config.start.folder(), backbone.network_folder)
    with torch.no_grad():
        forward = counting.flops(network_count.forward_pass(backbone, network, manifest, manifest.latent_shape))
    # Two images: policy forward 2, backward twice that, reference 2. What is computed again does not count.
    assert utilisation.flops_of_pair(config, backbone, manifest) == pytest.approx(8 * forward)
    lora = replace(config, policy=replace(config.policy, lora_rank=4))  # backward to the adapters alone: 2
    assert utilisation.flops_of_pair(lora, backbone, manifest) == pytest.approx(6 * forward)


def test_the_peak_is_halved_in_float32() -> None:
    # 100 TFLOP/s and 2 TFLOP a pair: 50 pairs/s in bfloat16, 25 in float32.
    assert utilisation.rate(100, TrainConfig(precision="bfloat16"), 2e12) == 50.0
    assert utilisation.rate(100, TrainConfig(precision="float32"), 2e12) == 25.0


def test_a_processor_has_no_known_peak(encoded_store: Path) -> None:
    config = TrainConfig()
    backbone = open_backbone(config.start.folder(), config.schedule)
    manifest = store.read_manifest(str(encoded_store))
    assert utilisation.most_pairs_per_second(config, backbone, manifest, torch.device("cpu"), 2) is None
