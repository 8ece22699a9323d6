"""The embedded world's model with a far smaller network: a training step takes a fifth of the time."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from infra.base import (
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from support.material import MODEL

from diffusers import UNet2DConditionModel  # isort: skip

SIZES = {
    "block_out_channels": (16,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "norm_num_groups": 4,
}


def make_small_world(folder: Path) -> None:
    """Write the embedded world's model with a network of random weights and one attention; the stores fit it."""
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("diffusion_pytorch_model.safetensors"))
    shutil.copytree(MODEL / "vae", folder / "vae", dirs_exist_ok=True)
    torch.manual_seed(0)
    settings = UNet2DConditionModel.load_config(MODEL, subfolder="unet")
    UNet2DConditionModel.from_config(settings | SIZES).save_pretrained(folder / "unet")
