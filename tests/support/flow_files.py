"""Checkpoints of SD3 and FLUX in one file, in the names of their authors' code, made of diffusers folders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from infra.base import files
from training.run import original_names

Tensors = dict[str, torch.Tensor]
Rules = Sequence[tuple[str, str]]
NETWORK = "model.diffusion_model."

SD3: Rules = (
    (r"^pos_embed\.pos_embed$", "pos_embed"),
    (r"^pos_embed\.proj\.", "x_embedder.proj."),
    (r"^time_text_embed\.timestep_embedder\.linear_1\.", "t_embedder.mlp.0."),
    (r"^time_text_embed\.timestep_embedder\.linear_2\.", "t_embedder.mlp.2."),
    (r"^time_text_embed\.text_embedder\.linear_1\.", "y_embedder.mlp.0."),
    (r"^time_text_embed\.text_embedder\.linear_2\.", "y_embedder.mlp.2."),
    (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^transformer_blocks\.(\d+)\.norm1\.linear\.", r"joint_blocks.\1.x_block.adaLN_modulation.1."),
    (r"^transformer_blocks\.(\d+)\.norm1_context\.linear\.", r"joint_blocks.\1.context_block.adaLN_modulation.1."),
    (r"^transformer_blocks\.(\d+)\.ff\.net\.0\.proj\.", r"joint_blocks.\1.x_block.mlp.fc1."),
    (r"^transformer_blocks\.(\d+)\.ff\.net\.2\.", r"joint_blocks.\1.x_block.mlp.fc2."),
    (r"^transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj\.", r"joint_blocks.\1.context_block.mlp.fc1."),
    (r"^transformer_blocks\.(\d+)\.ff_context\.net\.2\.", r"joint_blocks.\1.context_block.mlp.fc2."),
    (r"^transformer_blocks\.(\d+)\.(attn2?)\.to_out\.0\.", r"joint_blocks.\1.x_block.\2.proj."),
    (r"^transformer_blocks\.(\d+)\.attn\.to_add_out\.", r"joint_blocks.\1.context_block.attn.proj."),
    (r"^transformer_blocks\.(\d+)\.(attn2?)\.norm_([qk])\.", r"joint_blocks.\1.x_block.\2.ln_\3."),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_added_([qk])\.", r"joint_blocks.\1.context_block.attn.ln_\2."),
    (r"^transformer_blocks\.(\d+)\.(attn2?)\.to_([qkv])\.", r"joint_blocks.\1.x_block.\2.qkv.\3."),
    (r"^transformer_blocks\.(\d+)\.attn\.add_([qkv])_proj\.", r"joint_blocks.\1.context_block.attn.qkv.\2."),
)
FLUX: Rules = (
    (r"^time_text_embed\.timestep_embedder\.linear_1\.", "time_in.in_layer."),
    (r"^time_text_embed\.timestep_embedder\.linear_2\.", "time_in.out_layer."),
    (r"^time_text_embed\.text_embedder\.linear_1\.", "vector_in.in_layer."),
    (r"^time_text_embed\.text_embedder\.linear_2\.", "vector_in.out_layer."),
    (r"^time_text_embed\.guidance_embedder\.linear_1\.", "guidance_in.in_layer."),
    (r"^time_text_embed\.guidance_embedder\.linear_2\.", "guidance_in.out_layer."),
    (r"^context_embedder\.", "txt_in."),
    (r"^x_embedder\.", "img_in."),
    (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.1."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^transformer_blocks\.(\d+)\.norm1\.linear\.", r"double_blocks.\1.img_mod.lin."),
    (r"^transformer_blocks\.(\d+)\.norm1_context\.linear\.", r"double_blocks.\1.txt_mod.lin."),
    (r"^transformer_blocks\.(\d+)\.ff\.net\.0\.proj\.", r"double_blocks.\1.img_mlp.0."),
    (r"^transformer_blocks\.(\d+)\.ff\.net\.2\.", r"double_blocks.\1.img_mlp.2."),
    (r"^transformer_blocks\.(\d+)\.ff_context\.net\.0\.proj\.", r"double_blocks.\1.txt_mlp.0."),
    (r"^transformer_blocks\.(\d+)\.ff_context\.net\.2\.", r"double_blocks.\1.txt_mlp.2."),
    (r"^transformer_blocks\.(\d+)\.attn\.to_out\.0\.", r"double_blocks.\1.img_attn.proj."),
    (r"^transformer_blocks\.(\d+)\.attn\.to_add_out\.", r"double_blocks.\1.txt_attn.proj."),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_q\.weight", r"double_blocks.\1.img_attn.norm.query_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_k\.weight", r"double_blocks.\1.img_attn.norm.key_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_added_q\.weight", r"double_blocks.\1.txt_attn.norm.query_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.attn\.norm_added_k\.weight", r"double_blocks.\1.txt_attn.norm.key_norm.scale"),
    (r"^transformer_blocks\.(\d+)\.attn\.to_([qkv])\.", r"double_blocks.\1.img_attn.qkv.\2."),
    (r"^transformer_blocks\.(\d+)\.attn\.add_([qkv])_proj\.", r"double_blocks.\1.txt_attn.qkv.\2."),
    (r"^single_transformer_blocks\.(\d+)\.norm\.linear\.", r"single_blocks.\1.modulation.lin."),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_q\.weight", r"single_blocks.\1.norm.query_norm.scale"),
    (r"^single_transformer_blocks\.(\d+)\.attn\.norm_k\.weight", r"single_blocks.\1.norm.key_norm.scale"),
    (r"^single_transformer_blocks\.(\d+)\.proj_out\.", r"single_blocks.\1.linear2."),
    (r"^single_transformer_blocks\.(\d+)\.attn\.to_([qkv])\.", r"single_blocks.\1.linear1.\2."),
    (r"^single_transformer_blocks\.(\d+)\.proj_mlp\.", r"single_blocks.\1.linear1.z."),
)
JOINED = re.compile(r"^(.+\.(?:qkv|linear1))\.([qkvz])\.(weight|bias)$")  # z: the MLP's rows, behind q, k and v


def original_network(tensors: Mapping[str, torch.Tensor], rules: Rules) -> Tensors:
    """Return a transformer's tensors under the names of its authors' code, without a prefix."""
    named: Tensors = {}
    joined: dict[str, dict[str, torch.Tensor]] = {}
    swapped = max(int(name.split(".")[1]) for name in tensors if name.startswith("transformer_blocks."))
    for name, tensor in tensors.items():
        is_swapped = name.startswith("norm_out.linear.") or (
            rules is SD3 and name.startswith(f"transformer_blocks.{swapped}.norm1_context.")
        )
        original = next((re.sub(old, new, name) for old, new in rules if re.match(old, name)), name)
        value = torch.cat(tensor.chunk(2)[::-1]) if is_swapped else tensor  # scale and shift change places
        match = JOINED.match(original)
        if match:
            joined.setdefault(f"{match[1]}.{match[3]}", {})[match[2]] = value
        else:
            named[original] = value
    order = "qkvz"
    return named | {name: torch.cat([p[one] for one in order if one in p]) for name, p in joined.items()}


def original_vae(folder: Path, prefix: str) -> Tensors:
    """Return a folder's VAE as one file has it: under first_stage_model. of Stability's, vae. of ComfyUI's."""
    levels = len(files.read_json(str(folder / "vae" / "config.json"))["block_out_channels"])
    named = original_names.original_vae(part(folder, "vae"), levels)
    return {f"{prefix}{name.removeprefix(original_names.VAE)}": tensor for name, tensor in named.items()}


def part(folder: Path, name: str) -> Tensors:
    """Read the tensors of a folder's part."""
    (path,) = (folder / name).glob("*.safetensors")
    return load_file(path)


def text_parts(folder: Path, names: Mapping[str, str]) -> Tensors:
    """Return text encoders as ComfyUI and Stability's files have them.

    Args:
        names: of the parts, to their names in the file: clip_l, clip_g, t5xxl.
    """
    tensors: Tensors = {}
    for name, original in names.items():
        wrap = "text_model." if original.startswith("clip") else ""
        for key, value in part(folder, name).items():
            inside = key if key.startswith(("text_model.", "text_projection")) else f"{wrap}{key}"
            tensors[f"text_encoders.{original}.transformer.{inside}"] = value
    return tensors
