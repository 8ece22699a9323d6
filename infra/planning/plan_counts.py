"""Count the arithmetic and the bytes of a planned run from its models' settings, as the dry runs do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from infra.base import (
    counting,
    models,
    torchvision_guard,  # noqa: F401  (before transformers)
)
from pipelines.latents import autoencoders, encode_config, encode_plan, kinds, planned
from training.run import plan as training_plan
from training.settings.presets import PRESETS

from transformers import CLIPConfig, CLIPModel  # isort: skip  (after torchvision's guard)
from infra.planning.plan_flags import encode_preset

VIT_H_14: Mapping[str, Any] = {  # PickScore's towers, as laion/CLIP-ViT-H-14-laion2B-s32B-b79K has them
    "projection_dim": 1024,
    "vision_config": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 224,
    },
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
}


class Counted:
    """The arithmetic and the bytes of a model, each counted once."""

    def __init__(self, model: str, preset: str, pairs: int, captions: int) -> None:
        self.folder = planned.settings_folder(models.Model(model))
        self.encode = encode_config.PRESETS[encode_preset(preset)]
        self.training = PRESETS[preset]
        shapes = planned.shapes_of(self.folder, self.encode.resolution, self.encode.max_tokens)
        self.resolution = shapes.resolution
        self.latent_shape = shapes.latent
        self.stored = encode_plan.Stored(
            latent_shape=self.latent_shape,
            posterior=self.encode.posterior,
            flip=self.encode.flip,
            dtype=self.encode.store_dtype,
        )
        tokens = kinds.text_tokens(self.folder, self.encode.max_tokens)
        self.networks = encode_plan.counted_networks(self.folder, shapes, tokens, self.encode)
        self.manifest = planned.planned_store(self.folder, self.resolution, self.encode.max_tokens, pairs, captions)

    @cached_property
    def network(self) -> training_plan.Network:
        """Count the network that training updates."""
        return training_plan.counted_network(self.training, self.folder, self.manifest, further=False)

    @cached_property
    def caption_bytes(self) -> int:
        """Return the bytes of a stored caption's embeddings."""
        return self.stored.value_bytes * sum(math.prod(shape) for shape in self.networks.embeddings.values())

    @cached_property
    def decoded_image(self) -> float:
        """Count the FLOPs of the VAE's decoder for one image."""
        vae: Any = counting.empty(self.folder, autoencoders.VAE)
        latent = torch.empty(1, *self.latent_shape, device=counting.META)
        with torch.no_grad():
            return counting.flops(lambda: autoencoders.decode(vae, latent))

    @cached_property
    def scored(self) -> tuple[float, float]:
        """Count the FLOPs of a ViT-H-14 for one image and for one caption."""
        with counting.META, torch.no_grad():
            towers: Any = CLIPModel(CLIPConfig(**VIT_H_14)).eval()
            image = counting.flops(lambda: towers.get_image_features(torch.empty(1, 3, 224, 224)))
            caption = counting.flops(lambda: towers.get_text_features(torch.zeros(1, 77, dtype=torch.int64)))
        return image, caption
