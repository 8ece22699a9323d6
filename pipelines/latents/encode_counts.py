"""What the encoder's dry run counts of a model, none of its weights read: shapes, and the work of VAE and encoders.

This loads the libraries of networks; planned.py and encode_plan.py ask for it through infra/base/kept_counts.py.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from infra.base import counting, models
from pipelines.latents import autoencoders, buckets, kinds, weight_files
from pipelines.latents.encode_latents import choose_resolution
from pipelines.latents.planned import NetworkWork, Shapes
from pipelines.latents.text_columns import embedding_shapes, tokens_beside


def count_shapes(folder: Path, resolution: int | None, max_tokens: int | None, with_buckets: bool) -> Shapes:
    """Say what a store of a model has of each image and caption.

    Args:
        folder: of the model's settings.
        resolution: side of the images in pixels, as the user chose; None for what the model was made for.
        max_tokens: as the user chose; None for the model's own length.

    Raises:
        UserError: if the folder holds no model that can be trained, or it has no such resolution, tokens or buckets.
    """
    weight_files.check_folder(folder, ())
    tokens = kinds.text_tokens(folder, max_tokens)
    vae = autoencoders.vae_config(folder)
    side = choose_resolution(resolution, folder)
    ladder = buckets.ladder(folder, side) if with_buckets else ()
    return Shapes(
        resolution=side,
        latent=autoencoders.latent_shape(vae, side),
        buckets=tuple(autoencoders.shaped_latents(vae, shape) for shape in ladder),
        embeddings=embedding_shapes(folder, tokens),
    )


def count_networks(folder: Path, resolution: int, tokens: int, batch_size: int, dtype: str) -> NetworkWork:
    """Count the VAE's encoder and the text encoders of a diffusers folder on the meta device.

    Args:
        tokens: of a caption, from kinds.text_tokens.
        dtype: of the VAE's products, by its name in torch.
    """
    vae: Any = counting.empty(folder, autoencoders.VAE)
    kind = kinds.kind_of(folder)
    works: dict[str, float] = {}
    one = torch.empty(1, 3, resolution, resolution, device=counting.META)
    sized = tokens + tokens_beside(folder) if tokens else 0
    many = torch.empty(batch_size, 3, resolution, resolution, device=counting.META)
    with torch.no_grad():
        image = counting.flops(lambda: autoencoders.posterior(vae, one))
        activations = counting.peak_bytes(vae, lambda: autoencoders.posterior(vae, many)[0], getattr(torch, dtype))
        for name in kind.frozen(with_sized=bool(tokens))[1:]:
            settings = models.component_config(folder, name)
            length = sized if name == kind.sized else int(settings["max_position_embeddings"])
            caption = torch.zeros(1, length, dtype=torch.int64, device=counting.META)
            works[name] = counting.flops(partial(counting.empty(folder, name), caption))
    return NetworkWork(
        vae_parameters=counting.parameters(vae),
        image=image,
        activations=activations,
        captions=works,
    )
