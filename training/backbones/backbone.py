"""What the trainer asks of a diffusion model: its noise schedule, its network, its prediction and the target for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from infra.base.errors import UserError
from pipelines.latents import identity, kinds
from training.backbones.schedule_config import ScheduleConfig


class Backbone(Protocol):
    """One kind of diffusion model: its schedule, its network, what that predicts and from which embeddings.

    Timesteps are whole numbers from 0, growing with the noise. Conditioning is the store's embedding columns by name,
    [B, ...] float32 each.
    """

    folder: Path  # a local diffusers folder
    network_folder: str  # of the part that is trained
    prediction_type: str  # epsilon, v_prediction, flow
    timesteps: int  # how many there are
    rounds_time: bool  # under autocast the network rounds the noise levels that it is given

    def load_network(self) -> Any:
        """Load the network to train, float32, without dropout: policy and reference must see the same function."""
        ...

    def freeze_idle(self, network: torch.nn.Module) -> None:
        """Freeze the weights, adapters' too, that never get a gradient: workers would wait for it."""
        ...

    def network_settings(self) -> dict[str, Any]:
        """Return the network's settings, defaults that its file leaves out filled in; no weights are read."""
        ...

    def schedule(self) -> tuple[Any, ...]:
        """Return what decides noise and target, to compare two models' by."""
        ...

    def timestep(self, uniform: float, area: float = 1.0) -> int:
        """Map a uniform number in [0, 1) to a timestep, so that timesteps are drawn as training draws them.

        Args:
            area: of the latent by that of the square's: more positions may shift the noise levels further.
        """
        ...

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Compute the noisy latents of the forward process; all [B, C, H, W] float32."""
        ...

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return what the network should predict, [B, C, H, W]."""
        ...

    def predict(
        self,
        network: torch.nn.Module,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Run the network on noisy latents [B, C, H, W], timesteps [B] int64 and conditioning; [B, C, H, W]."""
        ...

    def signal_to_noise(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return alpha^2 / sigma^2 of each timestep, [B] float32."""
        ...

    def epsilon_factor(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return what turns an error of this kind of prediction into one of the noise, a factor each, [B] float32."""
        ...


def open_backbone(folder: Path, config: ScheduleConfig) -> Backbone:
    """Open a diffusers folder as the kind of model that its pipeline class says it is; no weights are read.

    Raises:
        UserError: if that class cannot be trained, or its schedule lacks a timestep of config.
    """
    module, _, name = kinds.kind_of(folder).backbone.partition(":")
    made_by: Callable[[Path, ScheduleConfig], Backbone] = getattr(importlib.import_module(module), name)
    return made_by(folder, config)


def check_fingerprints(stored: Mapping[str, str], folder: Path, path: str) -> None:
    """Refuse a store made with other frozen parts than the model's.

    Args:
        stored: the store's fingerprints by part; T5's is missing where the store was encoded without it.

    Raises:
        UserError: with both fingerprints.
    """
    if any(identity.is_old(value) for value in stored.values()):
        identity.say_once(path)
    for name, (before, own) in identity.differing(stored, folder, kinds.kind_of(folder).frozen_in(stored)).items():
        raise UserError(
            f"{path} was encoded with another {name} than {folder} has: "
            f"store {str(before)[:16]}, model {own[:16]}; encode it again with this --model"
        )
