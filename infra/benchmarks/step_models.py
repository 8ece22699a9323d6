"""Models of the step benchmark: random weights in the shapes of SD1.5 and SDXL, or in small ones of their proportions.

Random weights cost what trained ones do. shapes/ holds the settings of both: facts of the published models, and small
ones whose VAE, text encoders and UNet share the work as theirs do (tests/infra/benchmarks/test_benchmark_step.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infra.base import counting, models
from training.backbones.backbone import open_backbone
from training.backbones.schedule_config import EVERY

SHAPES = Path(__file__).parent / "shapes"


@dataclass(frozen=True)
class Frozen:
    """The VAE and the text encoders, which the public scripts run at every step."""

    vae: Any
    texts: tuple[Any, ...]

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Encode [B, 3, R, R] into scaled latents [B, C, H, W] float32."""
        posterior = self.vae.encode(images.to(self.vae.dtype)).latent_dist
        return posterior.sample().float() * self.vae.config["scaling_factor"]

    @torch.no_grad()
    def encode_captions(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Encode [B, L] tokens into the network's conditioning."""
        if len(self.texts) == 1:
            return {"text_encoder": self.texts[0](tokens).last_hidden_state.float()}
        first = self.texts[0](tokens, output_hidden_states=True)
        second = self.texts[1](tokens, output_hidden_states=True)
        return {
            "text_encoder": first.hidden_states[-2].float(),
            "text_encoder_2": second.hidden_states[-2].float(),
            "text_encoder_2_pooled": second.text_embeds.float(),
        }


@dataclass(frozen=True)
class Work:
    """FLOPs: one image's forward pass of the network, one image of the VAE, one caption."""

    forward: float
    image: float
    caption: float

    def per_pair(self, recomputed: bool, lora: bool = False) -> dict[str, float]:
        """Return the FLOPs of a pair in each mode.

        Args:
            recomputed: with activation checkpointing.
            lora: adapters alone are trained: the backward pass reaches the activations, and no frozen weight.
        """
        backward = 1 if lora else 2  # forward passes that a backward pass costs; the adapters' own share is small
        policy = 2 * (1 + backward) * self.forward + (2 * self.forward if recomputed else 0)
        both = policy + 2 * self.forward
        encoder = 2 * self.image + self.caption
        modes = {"inline": both + encoder, "batched": both, "cached": policy}
        return modes | {"limit": policy, "encoder": encoder}


def folder_of(model: str, scale: str) -> Path:
    """Name the folder of a model's settings."""
    return SHAPES / (model if scale == "full" else f"{model}-small")


def text_names(folder: Path) -> list[str]:
    """Name the text encoders of a folder."""
    return [name for name in ("text_encoder", "text_encoder_2") if (folder / name).is_dir()]


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[torch.nn.Module, Frozen]:
    """Make the network, float32, and the frozen components in dtype, all with random weights on a device."""
    with device:
        network = counting.make(folder, "unet")
        frozen = [counting.make(folder, name) for name in ("vae", *text_names(folder))]
    if dtype != torch.float32:
        frozen = [one.to(dtype) for one in frozen]
    return network, Frozen(frozen[0], tuple(frozen[1:]))


def count(folder: Path) -> Work:
    """Count a folder's networks on the meta device."""
    backbone = open_backbone(folder, EVERY)
    with counting.META, torch.no_grad():
        network, frozen = load(folder, counting.META, torch.float32)
        vae = models.component_config(folder, "vae")
        side = vae["sample_size"] // 2 ** (len(vae["block_out_channels"]) - 1)
        noisy = torch.empty(1, vae["latent_channels"], side, side)
        timesteps = torch.empty(1, dtype=torch.int64)
        tokens = torch.zeros(1, models.component_config(folder, "text_encoder")["max_position_embeddings"]).long()
        images = torch.empty(1, 3, vae["sample_size"], vae["sample_size"])
        conditioning = frozen.encode_captions(tokens)
        return Work(
            forward=counting.flops(lambda: backbone.predict(network, noisy, timesteps, conditioning)),
            image=counting.flops(lambda: frozen.vae.encode(images)),
            caption=counting.flops(lambda: frozen.encode_captions(tokens)),
        )
