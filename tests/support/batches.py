"""Batches of random numbers, for the embedded model."""

from __future__ import annotations

import torch

from training.method.batch import Batch


def random_batch() -> Batch:
    """Return three pairs of random latents and captions, the same each time."""
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randn(shape, generator=generator) for shape in ((2, 3, 4, 8, 8), (3, 4, 8, 8), (3, 16, 64))]
    return Batch(
        pair_ids=torch.arange(3).numpy(),
        latents=draw[0],
        noise=draw[1],
        timesteps=torch.tensor([10, 400, 900]),
        conditioning={"text_encoder": draw[2]},
        preferred=torch.ones(3),
    )
