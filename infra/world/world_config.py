"""The settings with which the embedded world's diffusion model is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infra.base import files
from infra.base.places import PathText


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """Flags of the training of the embedded world's model."""

    output: PathText = "infra/world/model"
    """Folder to write the pipeline into."""
    seed: int = 0
    vae_steps: int = 7000
    vae_batch: int = 8
    vae_learning_rate: float = 5e-4
    vae_refine_steps: int = 5500
    """Further steps that weigh edges, without which small shapes stay blurred."""
    vae_refine_batch: int = 12
    kl_weight: float = 1e-4
    unet_steps: int = 3600
    unet_batch: int = 64
    unet_learning_rate: float = 1.2e-3
    wrong_captions: float = 0.35
    """Share of training captions with one attribute replaced by a random one."""
    caption_dropout: float = 0.1
    """Share of training captions replaced by the empty one, for classifier-free guidance."""
    images: int = 12_288
    """Scenes rendered once as the UNet's training set."""
    reuse_vae: bool = False
    """Take the VAE already in the output folder."""

    @property
    def folder(self) -> Path:
        """Return the output folder's absolute path."""
        return Path(files.resolve(self.output))
