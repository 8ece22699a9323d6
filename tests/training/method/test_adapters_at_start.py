"""How adapters begin: A is normal, of a deviation that their rank decides, and alpha is a flag."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from training.method.policy import add_adapters, trained
from training.method.policy_config import PolicyConfig


def network() -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    made: torch.nn.Module = UNet2DConditionModel(
        sample_size=4,
        in_channels=2,
        out_channels=2,
        block_out_channels=(32,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=8,
    )
    return made


@pytest.mark.parametrize(("rank", "alpha", "scale"), [(4, None, 1.0), (8, None, 1.0), (8, 2, 0.25), (4, 16, 4.0)])
def test_a_is_normal_by_its_rank_and_alpha_over_rank_scales_the_product(
    rank: int, alpha: int | None, scale: float
) -> None:
    adapted = add_adapters(network(), PolicyConfig(lora_rank=rank, lora_alpha=alpha), seed=0)
    weights = trained(adapted)
    values = torch.cat([weight.flatten() for name, weight in weights.items() if "lora_A" in name])
    # A kaiming uniform start, peft's own, would have 1 / sqrt(3 x inputs), 0.1 here, whatever the rank.
    assert values.std().item() == pytest.approx(1 / rank, rel=0.05)
    assert abs(values.mean().item()) < 0.05 / rank
    layers: list[Any] = [one for one in adapted.modules() if hasattr(one, "scaling")]
    assert {layer.scaling["default"] for layer in layers} == {scale}
