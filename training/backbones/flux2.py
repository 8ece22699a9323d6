"""FLUX.2 (Black Forest Labs 2025 and 2026): a rectified flow over latents whose 2x2 squares are channels already."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from infra.base import (
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from training.backbones.flow import RectifiedFlow

from diffusers import Flux2Transformer2DModel  # isort: skip


class Flux2Klein(RectifiedFlow):
    """FLUX.2 [klein]: hidden states of three layers of Qwen3 side by side, all rows; it is told no guidance."""

    network_class = Flux2Transformer2DModel
    guidance: float | None = None

    def predict(
        self,
        network: torch.nn.Module,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Run the network at s; the conditioning is text_encoder [B, L, D]."""
        text = conditioning["text_encoder"]
        height, width = noisy.shape[-2:]
        guidance = None if self.guidance is None else noisy.new_full((len(noisy),), self.guidance)
        tokens = network(
            hidden_states=noisy.flatten(2).transpose(1, 2),
            encoder_hidden_states=text,
            timestep=self._at(timesteps),  # the network multiplies by 1000 itself
            img_ids=positions(1, height, width, 1, noisy.device),
            txt_ids=positions(1, 1, 1, text.shape[1], noisy.device),
            guidance=guidance,  # times 1000, too
            return_dict=False,
        )[0]
        return tokens.transpose(1, 2).unflatten(2, (height, width))


class Flux2Dev(Flux2Klein):
    """FLUX.2 [dev]: hidden states of three layers of Mistral 3 side by side; policy and reference are told 4."""

    guidance = 4.0  # as its images are drawn; a distilled scale


def positions(frames: int, height: int, width: int, words: int, device: torch.device) -> torch.Tensor:
    """Tell each token's place, [tokens, 4] int64: frame, row, column, word."""
    axes = [torch.arange(length, device=device) for length in (frames, height, width, words)]
    return torch.cartesian_prod(*axes)
