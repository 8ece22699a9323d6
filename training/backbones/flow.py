"""Rectified flows, and SD3, SD3.5 and FLUX.1 among them: transformers that predict a velocity.

Flow matching (Lipman et al. 2023; Esser et al. 2024, "Scaling Rectified Flow Transformers"): a straight line from image
to noise, x_s = (1 - s) x_0 + s noise, and the network predicts its direction, noise - x_0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from scipy.special import expit, ndtri

from infra.base import (
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from pipelines.latents.kinds import kind_of, native_resolution, pixels_per_latent
from pipelines.latents.schedules import flow_scheduler
from training.backbones.base import DiffusersNetwork
from training.backbones.schedule_config import EVERY, ScheduleConfig

from diffusers import FluxTransformer2DModel, SD3Transformer2DModel  # isort: skip
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu  # isort: skip

GUIDANCE = 3.5  # what FLUX.1-dev is told as its distilled guidance scale, here and where its images are drawn


def shifted_sigmas(folder: Path, area: float = 1.0) -> torch.Tensor:
    """Return the scheduler's own noise levels, [timesteps] float32, ascending to 1.

    A dynamic shift depends on the number of image tokens. It is taken at the resolution that the model was made for,
    whatever the store's: a network knows s itself, the shift only says how often each s is trained.

    Args:
        area: of an image by that of the square, in a store with buckets; it has as many times the square's tokens.
    """
    scheduler = flow_scheduler(folder)
    sigmas = scheduler.sigmas
    settings = scheduler.config
    if settings["use_dynamic_shifting"]:
        sigmas = scheduler.time_shift(dynamic_shift(folder, settings, area), 1.0, sigmas)
        if settings.get("shift_terminal"):
            sigmas = scheduler.stretch_shift_to_terminal(sigmas)
    return sigmas.flip(0).contiguous()


def dynamic_shift(folder: Path, settings: Mapping[str, Any], area: float = 1.0) -> float:
    """Return mu of a shift by the number of image tokens, as a model's own pipeline takes it.

    Args:
        settings: the scheduler's.
        area: as in shifted_sigmas.
    """
    kind = kind_of(folder)
    tokens = round((native_resolution(folder) // pixels_per_latent(folder) // kind.patch) ** 2 * area)
    if kind.shift_steps:
        return compute_empirical_mu(tokens, kind.shift_steps)
    least = settings["base_image_seq_len"]
    share = (tokens - least) / (settings["max_image_seq_len"] - least)
    return settings["base_shift"] + share * (settings["max_shift"] - settings["base_shift"])


class RectifiedFlow(DiffusersNetwork):
    """What all rectified flows share: noise levels, noise, target."""

    network_folder = "transformer"
    prediction_type = "flow"

    def __init__(self, folder: Path, config: ScheduleConfig = EVERY) -> None:
        super().__init__(folder, config)
        if config.zero_terminal_snr:
            raise UserError(f"--zero-terminal-snr: {folder} is a flow model, whose last timestep is pure noise already")
        self.sigmas = shifted_sigmas(folder)
        self.timesteps = len(self.sigmas)
        self.places: dict[float, list[int]] = {1.0: list(range(self.timesteps))}  # by area, see _placed
        self.check_timesteps()

    def schedule(self) -> tuple[Any, ...]:
        """Return what decides noise and target, to compare two models' by."""
        return self.prediction_type, self.sigmas.tolist()

    def timestep(self, uniform: float, area: float = 1.0) -> int:
        """Draw timesteps logit-normally, mean 0 and deviation 1 (Esser et al. 2024, Sec. 3.1); a given list uniformly.

        The uniform number becomes a normal one by the inverse of its distribution; its sigmoid is the share of the
        schedule, and the schedule's own shift comes after: where it is dynamic, that of the latent's area.
        """
        if self.chosen:
            return self.chosen[int(uniform * len(self.chosen))]
        if area not in self.places:
            self.places[area] = self._placed(area)
        return self.places[area][int(expit(ndtri(uniform)) * self.timesteps)]

    def _placed(self, area: float) -> list[int]:
        """Return for each noise level of a latent of some area, ascending, the timestep of the nearest level."""
        levels = shifted_sigmas(self.folder, area)
        above = torch.searchsorted(self.sigmas, levels).clamp(1, self.timesteps - 1)
        nearer_below = levels - self.sigmas[above - 1] < self.sigmas[above] - levels
        return (above - nearer_below.long()).tolist()

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Compute x_s = (1 - s) x_0 + s noise at the s that the network is told; all [B, C, H, W] float32."""
        sigma = self.told(self._at(timesteps)).view(-1, 1, 1, 1)
        return (1 - sigma) * latents + sigma * noise

    def target(
        self,
        latents: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,  # noqa: ARG002
    ) -> torch.Tensor:
        """Return what the network should predict: noise - x_0, whatever s."""
        return noise - latents

    def signal_to_noise(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return ((1 - s) / s)^2 of each timestep, [B] float32."""
        sigma = self._at(timesteps)
        return ((1 - sigma) / sigma).square()

    def epsilon_factor(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return (1 - s)^2: with x_s given, eps - eps' = (1 - s) (v - v')."""
        return (1 - self._at(timesteps)).square()

    def told(self, sigma: torch.Tensor) -> torch.Tensor:
        """Return the noise levels [B] that a network is told when it is given these; under autocast some round them."""
        return sigma

    def _at(self, timesteps: torch.Tensor) -> torch.Tensor:
        return self.sigmas.to(timesteps.device)[timesteps]


class StableDiffusion3(RectifiedFlow):
    """Stable Diffusion 3 and 3.5: two CLIP encoders side by side, T5 after them, and both CLIPs' pooled outputs."""

    network_class = SD3Transformer2DModel

    def __init__(self, folder: Path, config: ScheduleConfig = EVERY) -> None:
        super().__init__(folder, config)
        settings = SD3Transformer2DModel.load_config(folder, subfolder=self.network_folder)
        self.text_width = int(settings["joint_attention_dim"])
        self.t5_tokens = kind_of(folder).tokens

    def text(self, conditioning: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Join the encoders' outputs as the pipeline does, [B, L, D]; zeros stand for a T5 that was left out."""
        clips = torch.cat([conditioning["text_encoder"], conditioning["text_encoder_2"]], dim=-1)
        padded = torch.nn.functional.pad(clips, (0, self.text_width - clips.shape[-1]))
        t5 = conditioning.get("text_encoder_3")
        if t5 is None:
            t5 = clips.new_zeros(len(clips), self.t5_tokens, self.text_width)
        return torch.cat([padded, t5], dim=1)

    def predict(
        self,
        network: torch.nn.Module,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Run the network at 1000 s; the conditioning is every column of the store's captions, T5's where stored."""
        pooled = torch.cat([conditioning["text_encoder_pooled"], conditioning["text_encoder_2_pooled"]], dim=-1)
        return network(
            hidden_states=noisy,
            encoder_hidden_states=self.text(conditioning),
            pooled_projections=pooled,
            timestep=1000 * self._at(timesteps),
            return_dict=False,
        )[0]


class Flux(RectifiedFlow):
    """FLUX.1: T5's hidden states, CLIP's pooled output, and on distilled models a guidance scale."""

    network_class = FluxTransformer2DModel
    rounds_time = True

    def __init__(self, folder: Path, config: ScheduleConfig = EVERY) -> None:
        super().__init__(folder, config)
        settings = FluxTransformer2DModel.load_config(folder, subfolder=self.network_folder)
        self.guidance = GUIDANCE if settings.get("guidance_embeds") else None

    def told(self, sigma: torch.Tensor) -> torch.Tensor:
        """Round as the network does, once before it multiplies by 1000 and once after."""
        narrow = autocast_dtype(sigma.device)
        return sigma if narrow == torch.float32 else (sigma.to(narrow) * 1000).float() / 1000

    def predict(
        self,
        network: torch.nn.Module,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Run the network at s; the conditioning is text_encoder_pooled [B, D] and text_encoder_2 [B, L, D]."""
        text = conditioning["text_encoder_2"]
        height, width = noisy.shape[-2:]
        guidance = None if self.guidance is None else noisy.new_full((len(noisy),), self.guidance)
        packed = network(
            hidden_states=pack(noisy),
            encoder_hidden_states=text,
            pooled_projections=conditioning["text_encoder_pooled"],
            timestep=self._at(timesteps),  # the network multiplies by 1000 itself, guidance too
            img_ids=image_ids(height, width, noisy.device),
            txt_ids=torch.zeros(text.shape[1], 3, device=noisy.device),
            guidance=guidance,
            return_dict=False,
        )[0]
        return unpack(packed, height, width)


def autocast_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of a device's products: autocast's inside its block, else float32."""
    enabled = torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if enabled else torch.float32


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Make one token of each 2x2 square of latents: [B, C, H, W] to [B, H/2*W/2, 4C], channels outermost."""
    return torch.nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Undo pack for latents of this height and width."""
    squares = tokens.transpose(1, 2).unflatten(2, (height // 2, width // 2))
    return torch.nn.functional.pixel_shuffle(squares, 2)


def image_ids(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Tell each token's place, [H/2*W/2, 3] float32: 0, row, column."""
    rows = torch.arange(height // 2, device=device)
    columns = torch.arange(width // 2, device=device)
    places = torch.cartesian_prod(rows, columns).float()
    return torch.nn.functional.pad(places, (1, 0))
