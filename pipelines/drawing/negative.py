"""Guidance away from a model of what not to draw (Diffusion-NPO, Wang et al. 2025).

Classifier-free guidance takes u + s (c - u), where u is the prediction without the caption and c the one with it. Here
u comes from the negative model: the same kind of network, trained on turned labels (combine.py --flip).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map

from infra.base.errors import UserError
from pipelines.latents import identity, kinds

# Their pipelines put predictions without and with caption into one batch, in this order.
GUIDED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline")


def check_negative(folder: Path, negative: Path, guidance_scale: float) -> None:
    """Refuse a negative model that cannot take the place of the model's own prediction without a caption.

    Args:
        folder, negative: diffusers folders with their frozen parts.

    Raises:
        UserError: naming the flag.
    """
    named = f"--negative-model {negative}"
    name = kinds.pipeline_class(folder)
    if name not in GUIDED:
        raise UserError(f"{named}: a {name} has no such guidance; only {', '.join(GUIDED[:-1])} and {GUIDED[-1]} have")
    if kinds.pipeline_class(negative) != name:
        raise UserError(f"{named}: a {kinds.pipeline_class(negative)}, but --model is a {name}")
    if guidance_scale <= 1:
        raise UserError(f"{named}: --guidance-scale {guidance_scale:g} takes no guidance; give one above 1")
    for part in kinds.kind_of(folder).frozen():
        both = [one for one in (folder, negative) if (one / part).is_dir()]
        if len(both) == 1 or (both and identity.fingerprint(folder, part) != identity.fingerprint(negative, part)):
            raise UserError(f"{named}: its {part} is not that of --model, so it would see other inputs")


def attach(pipeline: Any, negative: Path, dtype: torch.dtype, device: str) -> None:
    """Let a loaded pipeline take its prediction without the caption from a negative model's network."""
    part = kinds.kind_of(negative).network
    network = getattr(pipeline, part)
    other = type(network).from_pretrained(negative, subfolder=part, dtype=dtype, use_safetensors=True)
    network.forward = guided(network.forward, other.to(device).eval().forward)


def guided(positive: Callable[..., Any], negative: Callable[..., Any]) -> Callable[..., tuple[torch.Tensor]]:
    """Join two networks: the first half of a batch, without captions, goes to the negative one.

    Args:
        positive, negative: forward functions that return a tuple of one tensor.
    """

    def forward(*args: Any, **named: Any) -> tuple[torch.Tensor]:
        sample = args[0] if args else named["hidden_states"]  # UNets get it by place, SD3's transformer by name
        images = len(sample) // 2

        def half(of: Any, start: int) -> Any:
            def cut(value: Any) -> Any:
                batched = isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == 2 * images
                return value[start : start + images] if batched else value

            return tree_map(cut, of)

        without = negative(*half(args, 0), **half(named, 0))[0]
        caption = positive(*half(args, images), **half(named, images))[0]
        return (torch.cat([without, caption]),)

    return forward
