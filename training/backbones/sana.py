"""Sana (Xie et al. 2024, arXiv 2410.10629): a rectified flow over latents of 32 x 32 pixels, with linear attention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from infra.base import (
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from training.backbones import ragged
from training.backbones.flow import RectifiedFlow
from training.backbones.schedule_config import EVERY, ScheduleConfig

from diffusers import SanaTransformer2DModel  # isort: skip


class Sana(RectifiedFlow):
    """Sana: the last hidden states of Gemma 2 behind an instruction, masked where a batch has a longer caption."""

    network_class = SanaTransformer2DModel

    def __init__(self, folder: Path, config: ScheduleConfig = EVERY) -> None:
        super().__init__(folder, config)
        settings = SanaTransformer2DModel.load_config(folder, subfolder=self.network_folder)
        self.time_scale = 1000 * float(settings.get("timestep_scale", 1.0))

    def predict(
        self,
        network: torch.nn.Module,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Run the network at 1000 s, which the pipeline's solver rounds down to whole numbers.

        The conditioning is text_encoder [B, L, D] and text_encoder_length [B, 1].
        """
        text, mask = ragged.masked(conditioning)
        return network(
            hidden_states=noisy,
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
            timestep=self.time_scale * self._at(timesteps),
            return_dict=False,
        )[0]
