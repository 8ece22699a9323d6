"""Checkpoints in one file, as sites share them, made of diffusers folders of SD1.5's and SDXL's kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from infra.base import files
from training.run import original_names

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def original_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a diffusers folder under the names of one file."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    settings: dict[str, Mapping[str, Any]] = {}
    for part in PARTS:
        if (folder / part).is_dir():
            (path,) = (folder / part).glob("*.safetensors")
            parts[part] = load_file(path)
            settings[part] = files.read_json(str(folder / part / "config.json"))
    return original_names.original(parts, settings)


def write_single(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write a file of tensors and return its path."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path
