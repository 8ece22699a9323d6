"""Qwen-Image (Wu et al. 2025, arXiv 2508.02324): a rectified flow over latents of a VAE of videos, one frame each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from infra.base import (
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from training.backbones import ragged
from training.backbones.flow import RectifiedFlow, autocast_dtype, pack, unpack

from diffusers import QwenImageTransformer2DModel  # isort: skip


class QwenImage(RectifiedFlow):
    """Qwen-Image: the last hidden states of Qwen2.5-VL, masked where a batch has a longer caption."""

    network_class = QwenImageTransformer2DModel
    rounds_time = True

    def told(self, sigma: torch.Tensor) -> torch.Tensor:
        """Round as the network does before it multiplies by 1000."""
        return sigma.to(autocast_dtype(sigma.device)).float()

    def idle_parts(self, network: Any) -> tuple[str, ...]:
        """Name the text's way out of the last block: only the image's goes on to the prediction."""
        last = f"transformer_blocks.{network.config.num_layers - 1}"
        return (f"{last}.attn.to_add_out", f"{last}.txt_mlp")

    def predict(
        self,
        network: torch.nn.Module,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Run the network at s; the conditioning is text_encoder [B, L, D] and text_encoder_length [B, 1]."""
        height, width = noisy.shape[-2:]
        text, mask = ragged.masked(conditioning)
        tokens = network(
            hidden_states=pack(noisy),
            encoder_hidden_states=text,
            encoder_hidden_states_mask=mask,
            timestep=self._at(timesteps),  # the network multiplies by 1000 itself
            img_shapes=[[(1, height // 2, width // 2)]] * len(noisy),  # frames, rows and columns of tokens
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)
