"""Models that were trained a little or moved by hand, and trainings that are killed; they load torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.material import MODEL
from training.backbones.backbone import open_backbone
from training.backbones.schedule_config import EVERY
from training.method.policy import make_policy, trained
from training.method.policy_config import PolicyConfig
from training.run import assembly, loop
from training.run.result import write_adapters
from training.settings.config import TrainConfig


def lora_result(folder: Path, alpha: int = 8) -> tuple[Path, Any]:
    """Write adapters of the embedded world's model, moved off zero, as a run leaves them; and return their policy."""
    backbone = open_backbone(MODEL, EVERY)
    policy = make_policy(PolicyConfig(lora_rank=4, lora_alpha=alpha), backbone, seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, weight in trained(policy).items():
        if "lora_B" in name:
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    write_adapters(folder, backbone, policy)
    facts = {"config": {"model": str(MODEL), "objective": {"beta": 300.0}}}
    (folder / "facts.json").write_text(json.dumps(facts))
    return folder, policy


class Killed(Exception):
    """Stands for a kill in the middle of a run."""


def train_until_killed(config: TrainConfig, step: int) -> None:
    """Train in this process and die when a step was taken, before what follows it."""

    def die(metrics: dict[str, Any]) -> None:
        if metrics["step"] == step:
            raise Killed

    with pytest.raises(Killed):
        loop.train(config, assembly.Rank(on_step=die))


def moved_model(folder: Path, move: float, start: str | Path = MODEL) -> str:
    """Copy a model with each of its network's weights moved a little; return its folder."""
    shutil.copytree(start, folder)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    generator = torch.Generator().manual_seed(0)
    moved = {k: v + move * torch.randn(v.shape, generator=generator) for k, v in weights.items()}
    save_file(moved, path)
    return str(folder)
