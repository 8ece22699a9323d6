"""Names of Stable Diffusion's tensors in one file, as its authors' code has them, by those of diffusers' folders.

A1111, ComfyUI, Forge and diffusers' from_single_file read these names. The rules below are those of SD1.5 and SDXL,
for networks of any width and number of levels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]

UNET = "model.diffusion_model."
VAE = "first_stage_model."
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "final_layer_norm": "ln_final",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def unet_modules(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the original name of each block of a UNet by diffusers' name.

    The original code numbers blocks through all levels: input_blocks has the first convolution, then each level's
    resnets and its downsampler; output_blocks each level's resnets, the last of them with the upsampler.

    Args:
        settings: of the UNet: down_block_types, up_block_types and layers_per_block.
    """
    layers = settings["layers_per_block"]
    names = dict(_UNET_ENDS)
    for level in range(len(settings["down_block_types"])):
        first = 1 + level * (layers + 1)
        for layer in range(layers):
            names[f"down_blocks.{level}.resnets.{layer}"] = f"input_blocks.{first + layer}.0"
            names[f"down_blocks.{level}.attentions.{layer}"] = f"input_blocks.{first + layer}.1"
        names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{first + layers}.0.op"
    for level, kind in enumerate(settings["up_block_types"]):
        first = level * (layers + 1)
        for layer in range(layers + 1):
            names[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{first + layer}.0"
            names[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{first + layer}.1"
        after = 2 if "Attn" in kind else 1  # the upsampler stands behind the attention, where there is one
        names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{first + layers}.{after}.conv"
    return names


def unet_name(name: str, modules: Mapping[str, str]) -> str:
    """Return the original name of a UNet's tensor.

    Raises:
        ValueError: if it is of a block that SD1.5 and SDXL do not have.
    """
    for module, original in modules.items():
        if name.startswith(f"{module}."):
            rest = name.removeprefix(f"{module}.")
            part, dot, end = rest.rpartition(".")
            inside = _RESNET.get(part, part) if ".resnets." in f".{module}" else part
            return f"{original}.{inside}{dot}{end}" if inside else f"{original}.{end}"
    raise ValueError(f"{name}: a tensor of no block of SD1.5 or SDXL")


def original_unet(tensors: Tensors, settings: Mapping[str, Any]) -> Tensors:
    """Return a UNet's tensors under their original names.

    Raises:
        ValueError: as unet_name does.
    """
    modules = unet_modules(settings)
    return {f"{UNET}{unet_name(name, modules)}": tensor for name, tensor in tensors.items()}


def original_vae(tensors: Tensors, levels: int) -> Tensors:
    """Return a VAE's tensors under their original names.

    Its decoder's levels are counted from the other end, and its attention's projections are convolutions of 1x1.
    """
    named = {}
    for name, tensor in tensors.items():
        original = _vae_name(name, levels)
        is_projection = ".attn_1." in original and original.endswith(".weight") and tensor.ndim == 2
        named[f"{VAE}{original}"] = tensor[..., None, None] if is_projection else tensor
    return named


def _vae_name(name: str, levels: int) -> str:
    match = re.match(
        r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)", name
    )
    if match:
        half, way, level, kind, layer, rest = match.groups()
        place = int(level) if way == "down" else levels - 1 - int(level)
        block = f"block.{layer}" if kind == "resnets" else f"{way}sample"
        return f"{half}.{way}.{place}.{block}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
    for resnet in (0, 1):
        name = name.replace(f"mid_block.resnets.{resnet}.", f"mid.block_{resnet + 1}.")
    if "mid_block.attentions.0." in name:
        before, rest = name.split("mid_block.attentions.0.")
        module, _, end = rest.rpartition(".")
        return f"{before}mid.attn_1.{_VAE_ATTENTION.get(module, module)}.{end}"
    return name.replace("conv_norm_out", "norm_out")


def original_clip(tensors: Tensors, prefix: str) -> Tensors:
    """Return CLIP ViT-L's text tensors as the authors' code wraps transformers' model: with text_model."""
    return {
        f"{prefix}transformer.text_model.{name.removeprefix('text_model.')}": value for name, value in tensors.items()
    }


def original_open_clip(tensors: Tensors, prefix: str) -> Tensors:
    """Return OpenCLIP ViT-bigG's text tensors under open_clip's names.

    Query, key and value are one matrix there, and the projection is transposed.
    """
    named: Tensors = {}
    joined: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        inside = name.removeprefix("text_model.")
        if inside == "text_projection.weight":
            named[f"{prefix}text_projection"] = tensor.T.contiguous()
            continue
        inside = inside.replace("encoder.layers.", "transformer.resblocks.")
        match = re.match(r"(.+)\.self_attn\.([qkv])_proj\.(weight|bias)", inside)
        if match:
            joined.setdefault(f"{match[1]}.attn.in_proj_{match[3]}", {})[match[2]] = tensor
            continue
        for ours, original in _OPEN_CLIP.items():
            inside = inside.replace(ours, original)
        named[f"{prefix}{inside}"] = tensor
    return named | {f"{prefix}{name}": torch.cat([parts[one] for one in "qkv"]) for name, parts in joined.items()}


def original(parts: Mapping[str, Tensors], settings: Mapping[str, Mapping[str, Any]]) -> Tensors:
    """Return the tensors of a whole SD1.5 or SDXL as one file has them.

    Args:
        parts: tensors of unet, vae, text_encoder and, of SDXL, text_encoder_2, by diffusers' names.
        settings: of unet and vae.

    Raises:
        ValueError: as unet_name does.
    """
    is_xl = "text_encoder_2" in parts
    first = "conditioner.embedders.0." if is_xl else "cond_stage_model."
    named = original_unet(parts["unet"], settings["unet"])
    named |= original_vae(parts["vae"], len(settings["vae"]["block_out_channels"]))
    named |= original_clip(parts["text_encoder"], first)
    if is_xl:
        named |= original_open_clip(parts["text_encoder_2"], "conditioner.embedders.1.model.")
    return named
