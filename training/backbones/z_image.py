"""Z-Image (Z-Image team 2025, arXiv 2511.22699): a rectified flow whose network looks from the noise to the image."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from infra.base import (
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from training.backbones import ragged
from training.backbones.flow import RectifiedFlow

from diffusers import ZImageTransformer2DModel  # isort: skip


class ZImage(RectifiedFlow):
    """Z-Image: Qwen3's hidden states before the last, as many rows as a caption has tokens.

    The network itself pads a caption to a multiple of 32 rows with a token that it learned, and attends to these. It
    counts the image's positions from behind them. So it must get each caption at its own length.
    """

    network_class = ZImageTransformer2DModel

    def predict(
        self,
        network: torch.nn.Module,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Run the network at 1 - s and turn its x_0 - noise round.

        The conditioning is text_encoder [B, L, D] and text_encoder_length [B, 1].
        """
        time = (1000 - 1000 * self._at(timesteps)) / 1000  # rounded as in the pipeline
        images = list(noisy.unsqueeze(2).unbind())  # [C, frames, H, W] each
        predicted = network(images, time, ragged.rows(conditioning), return_dict=False)[0]
        return -torch.stack(predicted).squeeze(2)
