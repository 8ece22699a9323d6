"""The shape of the embedded world's tiny CLIPs, and how they are written in the real checkpoints' file formats."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from infra.base import (
    torchvision_guard,  # noqa: F401  (before open_clip and transformers)
)

import open_clip  # isort: skip
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

IMAGE_SIZE = 48  # pixels; an image of the world has 64, so that a scorer's resizing matters
CONTEXT = 77  # tokens, as in the real ones
TRAINED_TOKENS = 16  # what a caption of the world needs; the positions after them stay zero
MEAN = open_clip.OPENAI_DATASET_MEAN
STD = open_clip.OPENAI_DATASET_STD
VISION = {"image_size": IMAGE_SIZE, "patch_size": 8, "width": 96, "layers": 3, "head_width": 24}
TEXT = {"width": 64, "layers": 2, "heads": 4}
EMBEDDING = 64


def model_config(tokenizer: CLIPTokenizer, context: int = CONTEXT) -> dict:
    """Return open_clip's model_cfg: the shape of ViT-H-14's file, in small, with the tokenizer beside it."""
    text = TEXT | {"context_length": context, "vocab_size": len(tokenizer), "hf_tokenizer_name": "beside"}
    return {"embed_dim": EMBEDDING, "vision_cfg": VISION, "text_cfg": text}


def build_model(tokenizer: CLIPTokenizer, context: int = CONTEXT) -> open_clip.CLIP:
    """Make the tiny CLIP with fresh weights."""
    return open_clip.CLIP(**model_config(tokenizer, context))


def half_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights in float16, the table of positions filled up to CONTEXT."""
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    if "positional_embedding" in state:
        known = state["positional_embedding"]
        state["positional_embedding"] = torch.cat([known, known.new_zeros(CONTEXT - len(known), known.shape[1])])
    return {name: value.half().contiguous() for name, value in state.items()}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _write_shape(folder: Path, tokenizer: CLIPTokenizer) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    preprocessing = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    _write_json(
        folder / "open_clip_config.json", {"model_cfg": model_config(tokenizer), "preprocess_cfg": preprocessing}
    )
    _write_tokenizer(folder, tokenizer)


def _write_tokenizer(folder: Path, tokenizer: CLIPTokenizer) -> None:
    tokenizer.model_max_length = CONTEXT
    tokenizer.save_pretrained(folder)


def write_open_clip(folder: Path, model: torch.nn.Module, tokenizer: CLIPTokenizer) -> None:
    """Write an open_clip folder: configuration, tokenizer, safetensors."""
    _write_shape(folder, tokenizer)
    save_file(half_state(model), folder / "open_clip_model.safetensors")


def write_hps(folder: Path, model: torch.nn.Module, tokenizer: CLIPTokenizer, name: str) -> None:
    """Write an HPSv2 checkpoint, its weights under state_dict, and beside it the shape that is not ViT-H-14's."""
    _write_shape(folder, tokenizer)
    torch.save({"state_dict": half_state(model)}, folder / name)


def write_head(folder: Path, head: torch.nn.Module) -> None:
    """Write an aesthetic head as the LAION predictor's is: a plain state dict."""
    torch.save(half_state(head), folder / "head.pth")


def write_transformers(folder: Path, model: torch.nn.Module, tokenizer: CLIPTokenizer) -> None:
    """Write a transformers CLIPModel folder with its processor's files."""
    shape = CLIPConfig(
        projection_dim=EMBEDDING,
        vision_config={
            "hidden_size": VISION["width"],
            "intermediate_size": 4 * VISION["width"],
            "num_hidden_layers": VISION["layers"],
            "num_attention_heads": VISION["width"] // VISION["head_width"],
            "image_size": IMAGE_SIZE,
            "patch_size": VISION["patch_size"],
            "hidden_act": "gelu",
        },
        text_config={
            "hidden_size": TEXT["width"],
            "intermediate_size": 4 * TEXT["width"],
            "num_hidden_layers": TEXT["layers"],
            "num_attention_heads": TEXT["heads"],
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT,
            "hidden_act": "gelu",
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )
    copied = CLIPModel(shape).half()
    copied.load_state_dict(renamed(half_state(model)), strict=True)
    copied.save_pretrained(folder)
    side = {"shortest_edge": IMAGE_SIZE}
    crop = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    CLIPImageProcessor(size=side, crop_size=crop).save_pretrained(folder)
    _write_tokenizer(folder, tokenizer)


BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
REST = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}


def renamed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename open_clip's weights as transformers names them; both keep the same numbers, attention split in three."""
    out: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if name in REST:
            out[REST[name]] = value
        elif name in ("visual.proj", "text_projection"):
            projection = "visual_projection" if name == "visual.proj" else "text_projection"
            out[f"{projection}.weight"] = value.T.contiguous()
        else:
            tower, _, rest = name.partition("transformer.resblocks.")
            number, _, part = rest.partition(".")
            layer = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}"
            if part.startswith("attn.in_proj_"):
                kind = part.removeprefix("attn.in_proj_")
                for letter, third in zip("qkv", value.chunk(3), strict=True):
                    out[f"{layer}.self_attn.{letter}_proj.{kind}"] = third.contiguous()
            else:
                module, _, kind = part.rpartition(".")
                out[f"{layer}.{BLOCK[module]}.{kind}"] = value
    return out
