"""Models of the step benchmark: random weights in published shapes, or in small ones of their proportions.

Random weights cost what trained ones do. shapes/ holds the settings of both: facts of the published models, and small
ones whose VAE, text encoders and network share the work as theirs do (tests/infra/benchmarks/test_benchmark_step.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infra.base import counting
from pipelines.latents import autoencoders, components, kinds, text_columns
from training.backbones.backbone import open_backbone
from training.backbones.schedule_config import EVERY

SHAPES = Path(__file__).parent / "shapes"
SIDES = {"qwen-image": 1024, "qwen-image-small": 128}  # of images, where the VAE's settings name none
TOKENS = {"full": 512, "small": 16}  # of a caption, where a language model reads it


# The layers of the language model whose states become the text, by the pipeline's class.
LANGUAGE: dict[str, tuple[int, ...]] = {
    "QwenImagePipeline": (-1,),
    "ZImagePipeline": (-2,),
    "Flux2KleinPipeline": text_columns.KLEIN_LAYERS,
}


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The VAE and the text encoders, which the public scripts run at every step."""

    vae: Any
    texts: tuple[Any, ...]
    pipeline: str  # the class, which decides what a caption becomes
    side: int  # of the images
    tokens: int  # of the captions

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Encode [B, 3, R, R] into scaled latents [B, C, H, W] float32."""
        mean, deviation = autoencoders.posterior(self.vae, images.to(self.vae.dtype))
        return (mean + deviation * torch.randn_like(mean)).float() * self.vae.config.get("scaling_factor", 1.0)

    @torch.no_grad()
    def encode_captions(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """Encode [B, L] tokens into the network's conditioning."""
        if self.pipeline in LANGUAGE:
            hidden = self.texts[0](input_ids=tokens, output_hidden_states=True).hidden_states
            rows = torch.cat([hidden[layer] for layer in LANGUAGE[self.pipeline]], dim=-1).float()
            if self.pipeline == "Flux2KleinPipeline":
                return {"text_encoder": rows}
            length = torch.full((len(rows), 1), float(rows.shape[1]), device=rows.device)
            return {"text_encoder": rows, text_columns.LENGTH: length}
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
    name = "z-image" if model == "zimage" else model  # the preset's name
    return SHAPES / (name if scale == "full" else f"{name}-small")


def text_names(folder: Path) -> list[str]:
    """Name the text encoders of a folder."""
    return [name for name in ("text_encoder", "text_encoder_2") if (folder / name).is_dir()]


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[torch.nn.Module, Frozen]:
    """Make the network, float32, and the frozen components in dtype, all with random weights on a device."""
    pipeline = kinds.pipeline_class(folder)
    with device:
        network = counting.make(folder, kinds.kind_of(folder).network)
        frozen = [counting.make(folder, name) for name in ("vae", *text_names(folder))]
    if dtype != torch.float32:
        frozen = [one.to(dtype) for one in frozen]
    made = Frozen(
        vae=frozen[0],
        texts=tuple(frozen[1:]),
        pipeline=pipeline,
        side=SIDES.get(folder.name) or int(components.settings(folder, "vae")["sample_size"]),
        tokens=_tokens(folder, pipeline),
    )
    return network, made


def _tokens(folder: Path, pipeline: str) -> int:
    if pipeline in LANGUAGE:
        return TOKENS["small" if folder.name.endswith("-small") else "full"]
    return int(components.settings(folder, "text_encoder")["max_position_embeddings"])


def count(folder: Path) -> Work:
    """Count a folder's networks on the meta device."""
    backbone = open_backbone(folder, EVERY)
    with counting.META, torch.no_grad():
        network, frozen = load(folder, counting.META, torch.float32)
        noisy = torch.empty(1, *autoencoders.latent_shape(autoencoders.vae_config(folder), frozen.side))
        timesteps = torch.empty(1, dtype=torch.int64)
        tokens = torch.zeros(1, frozen.tokens).long()
        images = torch.empty(1, 3, frozen.side, frozen.side)
        conditioning = frozen.encode_captions(tokens)
        return Work(
            forward=counting.flops(lambda: backbone.predict(network, noisy, timesteps, conditioning)),
            image=counting.flops(lambda: autoencoders.posterior(frozen.vae, images)),
            caption=counting.flops(lambda: frozen.encode_captions(tokens)),
        )
