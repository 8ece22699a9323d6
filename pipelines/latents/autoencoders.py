"""The frozen VAE, whatever its class: an image's posterior, and how latents are normalised.

    z = (squares(x) - shift) * scale

x is the VAE's own latent. FLUX.2 first makes channels of each 2x2 square of positions (pixel_unshuffle); for all others
squares(x) is x. Shift and scale are one number for all channels (Stable Diffusion, FLUX.1, Z-Image), or means and
deviations per channel. Qwen-Image has these among its settings, FLUX.2 as a batch norm's statistics among its weights.
Stores hold z, and networks see it. A VAE of videos sees an image as one frame. Sana's gives one latent and no
distribution: its deviations are 0 here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.nn import functional

from infra.base import (
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from pipelines.latents import components, weight_files

VAE = "vae"
FLUX_2 = "batch_norm_eps"  # a setting that only FLUX.2's class has
VIDEO = "temperal_downsample"  # that only Qwen-Image's class has, in this spelling
DEEP = "encoder_block_out_channels"  # that only Sana's class has, in place of block_out_channels


@dataclass(frozen=True)
class Normalisation:
    """Shift and scale of latents: one number for all channels, or one a channel."""

    shift: float | tuple[float, ...]
    scale: float | tuple[float, ...]

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return shift and scale, [C, 1, 1] or [1, 1, 1] float32 each."""
        shift = torch.tensor(self.shift, dtype=torch.float32).view(-1, 1, 1)
        scale = torch.tensor(self.scale, dtype=torch.float32).view(-1, 1, 1)
        return shift, scale


def vae_config(folder: Path) -> Mapping[str, Any]:
    """Read a VAE's settings with diffusers' defaults: SD1.5's own file, for one, does not name its scaling factor."""
    return components.settings(folder, VAE)


def latent_channels(config: Mapping[str, Any]) -> int:
    """Return the number of channels of a VAE's own latents, by its settings."""
    return int(config["z_dim"] if VIDEO in config else config["latent_channels"])


def latent_shape(config: Mapping[str, Any], resolution: int) -> tuple[int, int, int]:
    """Return (C, H, W) of one stored latent of a square image of this resolution, by the VAE's settings."""
    return shaped_latents(config, (resolution, resolution))


def shaped_latents(config: Mapping[str, Any], shape: tuple[int, int]) -> tuple[int, int, int]:
    """Return (C, H, W) of one stored latent of an image of this height and width in pixels, by the VAE's settings."""
    levels = DEEP if DEEP in config else "block_out_channels"
    halved = len(config[VIDEO]) if VIDEO in config else len(config[levels]) - 1
    square = square_side(config)
    step = 2**halved * square
    return latent_channels(config) * square**2, shape[0] // step, shape[1] // step


def square_side(config: Mapping[str, Any]) -> int:
    """Return the side of the squares of positions that become channels of a stored latent; 1 for most."""
    return int(config["patch_size"][0]) if FLUX_2 in config else 1


def normalisation(folder: Path) -> Normalisation:
    """Read how the latents of a diffusers folder's VAE are normalised; of FLUX.2's, two tensors are read."""
    config = vae_config(folder)
    if FLUX_2 in config:
        mean = _tensor(folder, "bn.running_mean").double()
        variance = _tensor(folder, "bn.running_var").double()
        deviations = (variance + config[FLUX_2]).sqrt()
        return Normalisation(tuple(mean.tolist()), tuple((1 / deviations).tolist()))
    if VIDEO in config:
        return Normalisation(tuple(config["latents_mean"]), tuple(1 / one for one in config["latents_std"]))
    return Normalisation(config.get("shift_factor") or 0.0, config["scaling_factor"])


def _tensor(folder: Path, name: str) -> torch.Tensor:
    path, inside = weight_files.open_headers(folder, VAE).tensors[name]
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(inside)


def load_vae(folder: Path, dtype: torch.dtype) -> Any:
    """Load a folder's frozen VAE by the class that the index names."""
    opened_by = components.class_of(folder, VAE)
    vae = opened_by.from_pretrained(folder, subfolder=VAE, use_safetensors=True, dtype=dtype)
    return models.own_memory(vae).eval().requires_grad_(False)


def posterior(vae: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode images [B, 3, R, R] in -1..1 into mean and standard deviation, [B, C, H, W] each, not normalised."""
    if DEEP in vae.config:
        latent = vae.encode(images).latent
        return latent, torch.zeros_like(latent)
    is_video = VIDEO in vae.config
    distribution = vae.encode(images.unsqueeze(2) if is_video else images).latent_dist
    square = square_side(vae.config)

    def as_stored(value: torch.Tensor) -> torch.Tensor:
        image = value.squeeze(2) if is_video else value
        return functional.pixel_unshuffle(image, square) if square > 1 else image

    return as_stored(distribution.mean), as_stored(distribution.std)


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode latents [B, C, H, W] of a store's shape, the normalisation undone, into images [B, 3, R, R]."""
    square = square_side(vae.config)
    own = functional.pixel_shuffle(latents, square) if square > 1 else latents
    if VIDEO in vae.config:
        return vae.decode(own.unsqueeze(2)).sample[:, :, 0]
    return vae.decode(own).sample
