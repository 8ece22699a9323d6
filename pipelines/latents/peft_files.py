"""Adapters as PEFT's save_pretrained writes them: names that begin with base_model.model., and a file of settings."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from infra.base import files, models, weight_names
from infra.base.errors import UserError
from pipelines.latents.adapter_scales import ALPHA, NOTED, metadata_of
from pipelines.latents.lost_layers import layer_of

PREFIX = "base_model.model."
OUT = ".lora_B.weight"
BIAS = ".lora_B.bias"  # of lora_bias, which PEFT scales too
# Ways to begin that change the model's own weights first: the adapters fit those weights and no others.
LOFTQ = "loftq"
CHANGE_THE_BASE = ("pissa", "olora", "corda", LOFTQ, "lora_ga")


def settings_of(adapters: Path) -> Path | None:
    """Return the settings beside a LoRA file that decide its scales; None where there are none, or its own decide."""
    path = adapters / weight_names.ADAPTERS
    file = adapters / models.ADAPTERS
    if not path.is_file() or NOTED in metadata_of(file) or any(name.endswith(ALPHA) for name in models.shapes(file)):
        return None
    return path


def opened(
    adapters: Path, tensors: Mapping[str, torch.Tensor], layers: Collection[str], where: str
) -> dict[str, torch.Tensor]:
    """Return a file's tensors with its settings' scales in their weights, under the names of a network's layers.

    Names that are not of these layers stay, as diffusers converts some of them.

    Args:
        layers: of the network, by name.

    Raises:
        UserError: if the settings are of adapters that are not LoRA or belong to changed weights, or lack a scale.
    """
    settings = settings_of(adapters)
    own = dict(tensors)
    if settings is not None:
        own = _scaled(own, files.read_json(str(settings)), where)
    renamed = {name.removeprefix(PREFIX): tensor for name, tensor in own.items()}
    fits = all(name.startswith(PREFIX) for name in own) and all(layer_of(name) in layers for name in renamed)
    return renamed if fits else own


def _scaled(tensors: dict[str, torch.Tensor], settings: Any, where: str) -> dict[str, torch.Tensor]:
    """Multiply each layer's alpha, divided by its rank or the root of it, into its weights."""
    if not isinstance(settings, dict):
        raise UserError(f"{where}: its {weight_names.ADAPTERS} is no JSON object; restore it from a copy")
    kind = "DoRA" if settings.get("use_dora") else settings.get("peft_type")
    if kind != "LORA":
        raise UserError(
            f"{where}: its {weight_names.ADAPTERS} says {kind}, and only LoRA is loaded; convert it to LoRA"
        )
    began = settings.get("init_lora_weights")
    if isinstance(began, str) and began.lower().startswith(CHANGE_THE_BASE):
        remedy = (
            "save plain LoRA with save_pretrained's path_initial_model_for_weight_conversion, which takes the adapter "
            "as it was saved before training"
        )
        if began.lower().startswith(LOFTQ):  # which PEFT cannot convert
            remedy = "merge it into its own base, and give that as --model"
        raise UserError(
            f"{where}: its {weight_names.ADAPTERS} says init_lora_weights {began}, which changes the model's weights "
            f"before training; {remedy}"
        )
    scaled = dict(tensors)
    for name in [name for name in tensors if name.endswith(OUT)]:
        layer = name.removeprefix(PREFIX).removesuffix(OUT)
        rank = tensors[name].shape[1]
        try:
            alpha = _alpha(layer, settings)
        except (AttributeError, KeyError, TypeError, ValueError, re.error) as error:
            raise UserError(
                f"{where}: its {weight_names.ADAPTERS} has no lora_alpha or alpha_pattern that can be read for {layer}"
            ) from error
        scale = alpha / (rank**0.5 if settings.get("use_rslora") else rank)
        for own in (name, name.removesuffix(OUT) + BIAS):
            if own in tensors:
                scaled[own] = tensors[own].float() * scale
    return scaled


def _alpha(layer: str, settings: Mapping[str, Any]) -> float:
    """Return a layer's alpha: by the first pattern that its name ends in, as PEFT looks for it, else that of all."""
    patterns = settings.get("alpha_pattern") or {}
    own = (alpha for pattern, alpha in patterns.items() if re.match(rf"(.*\.)?({pattern})$", layer))
    return float(next(own, settings["lora_alpha"]))
