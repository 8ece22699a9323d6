"""What the trainer asks of a diffusion model: its noise schedule, its network, its prediction and the target for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from infra import (
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.errors import UserError
from pipelines import store

from diffusers import DDPMScheduler, UNet2DConditionModel  # isort: skip


class StableDiffusion:
    """Stable Diffusion 1.x and 2.x: a UNet that predicts noise or velocity, conditioned on one text encoder."""

    network_folder = "unet"

    def __init__(self, folder: Path) -> None:
        pipeline = models.files.read_json(str(folder / "model_index.json")).get("_class_name")
        if pipeline != "StableDiffusionPipeline":
            raise UserError(f"--model {folder}: a {pipeline}; this trainer knows StableDiffusionPipeline")
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
        self, network: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, conditioning: torch.Tensor
    ) -> torch.Tensor:
        """Run the network on [B, C, H, W], timesteps [B] int64 and text embeddings [B, L, D]."""
        return network(noisy, timesteps, encoder_hidden_states=conditioning, return_dict=False)[0]

    def _at(self, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        alpha, sigma = self.alpha.to(timesteps.device), self.sigma.to(timesteps.device)
        return alpha[timesteps].view(-1, 1, 1, 1), sigma[timesteps].view(-1, 1, 1, 1)


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
