"""Stable Diffusion 1.x, 2.x and XL: UNets that predict the noise, or the velocity, of a diffusion process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from infra.base import (
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from pipelines.latents.kinds import pixels_per_latent
from pipelines.latents.schedules import diffusion_scheduler
from training.backbones.base import DiffusersNetwork
from training.backbones.schedule_config import EVERY, ScheduleConfig

from diffusers import UNet2DConditionModel  # isort: skip


class StableDiffusion(DiffusersNetwork):
    """Stable Diffusion 1.x and 2.x: a UNet that predicts noise or velocity, conditioned on one text encoder."""

    network_class = UNet2DConditionModel
    network_folder = "unet"

    def __init__(self, folder: Path, config: ScheduleConfig = EVERY) -> None:
        super().__init__(folder, config)
        scheduler = diffusion_scheduler(folder, config.zero_terminal_snr)
        self.prediction_type: str = scheduler.config["prediction_type"]
        alphas = scheduler.alphas_cumprod.double()
        self.alpha = alphas.sqrt().float()  # [timesteps]
        self.sigma = (1 - alphas).sqrt().float()
        self.timesteps = len(alphas)
        # Where alpha is 0 a model that predicts the noise sees the same input and target for both slots.
        informative = (self.alpha > 0).tolist() if self.prediction_type == "epsilon" else [True] * self.timesteps
        self.check_timesteps(informative)
        self.drawn = self.chosen or tuple(t for t in range(self.timesteps) if informative[t])

    def schedule(self) -> tuple[Any, ...]:
        """Return what decides noise and target, to compare two models' by."""
        return self.prediction_type, self.alpha.tolist()

    def timestep(self, uniform: float, area: float = 1.0) -> int:  # noqa: ARG002
        """Draw timesteps uniformly (Eq. 14), whatever the latent's area."""
        return self.drawn[int(uniform * len(self.drawn))]

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Compute x_t = alpha_t x_0 + sigma_t noise (Eq. 1's forward process); all [B, C, H, W] float32."""
        alpha, sigma = self._at(timesteps)
        return alpha * latents + sigma * noise

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return what the network should predict: the noise, or v = alpha noise - sigma x_0 (Salimans and Ho 2022)."""
        if self.prediction_type == "epsilon":
            return noise
        alpha, sigma = self._at(timesteps)
        return alpha * noise - sigma * latents

    def predict(
        self,
        network: torch.nn.Module,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Run the network; the conditioning is text_encoder [B, L, D]."""
        return network(noisy, timesteps, encoder_hidden_states=conditioning["text_encoder"], return_dict=False)[0]

    def signal_to_noise(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return alpha^2 / sigma^2 of each timestep, [B] float32."""
        alpha, sigma = self._at(timesteps)
        return (alpha / sigma).square().flatten()

    def epsilon_factor(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return 1 for models that predict noise, alpha^2 for velocity: with x_t given, eps - eps' = alpha (v - v')."""
        alpha, _ = self._at(timesteps)
        return torch.ones_like(alpha).flatten() if self.prediction_type == "epsilon" else alpha.square().flatten()

    def _at(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return alpha and sigma of each timestep, [B, 1, 1, 1] float32."""
        alpha = self.alpha.to(timesteps.device)[timesteps]
        sigma = self.sigma.to(timesteps.device)[timesteps]
        return alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL: two text encoders side by side, the second's pooled output, and the image's size."""

    def __init__(self, folder: Path, config: ScheduleConfig = EVERY) -> None:
        super().__init__(folder, config)
        self.pixels_per_latent = pixels_per_latent(folder)

    def predict(
        self,
        network: torch.nn.Module,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Run the network; the conditioning is text_encoder, text_encoder_2 [B, L, D], text_encoder_2_pooled [B, D]."""
        text = torch.cat([conditioning["text_encoder"], conditioning["text_encoder_2"]], dim=-1)
        added = {"text_embeds": conditioning["text_encoder_2_pooled"], "time_ids": self.time_ids(noisy)}
        return network(noisy, timesteps, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False)[0]

    def time_ids(self, noisy: torch.Tensor) -> torch.Tensor:
        """Tell each image's original size, crop and target size, in pixels: [R, R, 0, 0, R, R], [B, 6] float32."""
        height = noisy.shape[-2] * self.pixels_per_latent
        width = noisy.shape[-1] * self.pixels_per_latent
        ids = [height, width, 0, 0, height, width]
        return torch.tensor(ids, dtype=torch.float32, device=noisy.device).repeat(len(noisy), 1)
