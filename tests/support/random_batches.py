"""A batch of random pairs in the shapes that a model's store has, made without a store."""

from __future__ import annotations

from pathlib import Path

import torch

from pipelines.latents import autoencoders, components, kinds, text_columns
from training.method.batch import Batch


def random_batch(folder: Path, pairs: int = 2, side: int = 16) -> Batch:
    """Make a batch for the model of a diffusers folder.

    Args:
        side: of the images, in pixels.
    """
    generator = torch.Generator().manual_seed(0)
    shape = autoencoders.latent_shape(autoencoders.vae_config(folder), side)
    columns = text_columns.embedding_shapes(folder, tokens_of(folder))
    conditioning = {name: torch.randn(pairs, *column, generator=generator) for name, column in columns.items()}
    if text_columns.LENGTH in conditioning:
        conditioning[text_columns.LENGTH] = torch.tensor([[5.0 + 4 * place] for place in range(pairs)])
    return Batch(
        pair_ids=torch.arange(pairs).numpy(),
        latents=torch.randn(2, pairs, *shape, generator=generator),
        noise=torch.randn(pairs, *shape, generator=generator),
        timesteps=torch.tensor([100 + 600 * place for place in range(pairs)]),
        conditioning=conditioning,
        preferred=torch.ones(pairs),
    )


def tokens_of(folder: Path) -> int:
    """Return a short length for captions; 0 where the model has no text encoder with a length to choose."""
    sized = kinds.kind_of(folder).sized
    return 16 if sized and sized in components.parts_of(folder) else 0
