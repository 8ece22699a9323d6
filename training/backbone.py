"""What the trainer asks of a diffusion model: its noise schedule, its network, its prediction and the target for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from infra import (
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.errors import UserError
from pipelines import store

from diffusers import DDPMScheduler, UNet2DConditionModel  # isort: skip


class Backbone(Protocol):
    """One kind of diffusion model: its schedule, its network, what that predicts and from which embeddings.

    Timesteps are whole numbers from 0, growing with the noise. Conditioning is the store's embedding columns by name,
    [B, ...] float32 each.
    """

    folder: Path  # a local diffusers folder
    network_folder: str  # of the part that is trained
    prediction_type: str  # epsilon, v_prediction, flow
    timesteps: int  # how many there are

    def load_network(self) -> Any:
        """Load the network to train, float32, without dropout: policy and reference must see the same function."""
        ...

    def network_settings(self) -> dict[str, Any]:
        """Return the network's settings, defaults that its file leaves out filled in; no weights are read."""
        ...

    def schedule(self) -> tuple[Any, ...]:
        """Return what decides noise and target, to compare two models' by."""
        ...

    def timestep(self, uniform: float) -> int:
        """Map a uniform number in [0, 1) to a timestep, so that timesteps are drawn as training draws them."""
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


class StableDiffusion:
    """Stable Diffusion 1.x and 2.x: a UNet that predicts noise or velocity, conditioned on one text encoder."""

    network_folder = "unet"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        self.prediction_type: str = scheduler.config["prediction_type"]
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise UserError(
                f"{folder}/scheduler: prediction_type {self.prediction_type}; epsilon and v_prediction are known"
            )
        alphas = scheduler.alphas_cumprod.double()
        self.alpha, self.sigma = alphas.sqrt().float(), (1 - alphas).sqrt().float()
        self.timesteps = len(alphas)

    def load_network(self) -> UNet2DConditionModel:
        """Load the network to train, float32, without dropout: policy and reference must see the same function."""
        network = UNet2DConditionModel.from_pretrained(
            self.folder, subfolder=self.network_folder, use_safetensors=True, dtype=torch.float32
        )
        return network.eval()

    def network_settings(self) -> dict[str, Any]:
        """Return the network's settings, defaults that its file leaves out filled in; no weights are read."""
        with torch.device("meta"):
            known = UNet2DConditionModel.load_config(self.folder, subfolder=self.network_folder)
            network = UNet2DConditionModel.from_config(known)
        told = {name: value for name, value in network.config.items() if not name.startswith("_")}
        return json.loads(json.dumps(told))  # a default may be a tuple where a file has a list

    def schedule(self) -> tuple[Any, ...]:
        """Return what decides noise and target, to compare two models' by."""
        return self.prediction_type, self.alpha.tolist()

    def timestep(self, uniform: float) -> int:
        """Draw timesteps uniformly (Eq. 14)."""
        return int(uniform * self.timesteps)

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
        alpha, sigma = self.alpha.to(timesteps.device), self.sigma.to(timesteps.device)
        return alpha[timesteps].view(-1, 1, 1, 1), sigma[timesteps].view(-1, 1, 1, 1)


def open_backbone(folder: Path) -> Backbone:
    """Open a diffusers folder as the kind of model that its pipeline class says it is; no weights are read.

    Raises:
        UserError: if that class is none that can be trained.
    """
    pipeline = models.files.read_json(str(folder / "model_index.json")).get("_class_name")
    if pipeline not in BACKBONES:
        raise UserError(f"--model {folder}: a {pipeline}; this trainer knows {', '.join(BACKBONES)}")
    return BACKBONES[pipeline](folder)


BACKBONES: dict[str, Callable[[Path], Backbone]] = {"StableDiffusionPipeline": StableDiffusion}


def check_fingerprints(stored: Mapping[str, str], folder: Path, path: str) -> None:
    """Refuse a store made with other frozen components than the model's.

    Raises:
        UserError: with both fingerprints.
    """
    for name in store.FROZEN:
        own = models.fingerprint(folder, name)
        if stored.get(name) != own:
            raise UserError(
                f"{path} was encoded with another {name} than {folder} has: "
                f"store {str(stored.get(name))[:16]}, model {own[:16]}; encode it again with this --model"
            )
