"""How strongly a LoRA file's layers act: alpha divided by the rank, in its tensors, its metadata or its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from infra.base.errors import UserError

ALPHA = (".lora.alpha", ".alpha")  # ends of names of scales, longest first
UP = re.compile(r"lora_up|lora_B|lora\.up|up\.weight")  # of a layer's two matrices, that which makes its output
NOTED = "lora_adapter_metadata"  # diffusers' name for what it notes of adapters in a file
ALPHA_NOTED = ("lora_alpha", "network_alpha", "ss_network_alpha", "alpha")  # other trainers' names of a scale there


def in_weights(tensors: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """Multiply each layer's own scale into its weights, and leave the scales out.

    diffusers 0.42.1 gives all layers one scale where their alphas or ranks differ, or only some have an alpha.

    Raises:
        UserError: naming a scale that belongs to no layer.
    """
    scaled = {name: tensor for name, tensor in tensors.items() if not name.endswith(ALPHA)}
    for name in tensors.keys() - scaled.keys():
        layer = next(name.removesuffix(end) for end in ALPHA if name.endswith(end))
        inside = [other for other in scaled if other.startswith(f"{layer}.")]
        ups = [other for other in inside if UP.search(other.removeprefix(layer))]
        if len(inside) != 2 or len(ups) != 1 or tensors[name].numel() != 1:
            raise UserError(f"{where}: {name} is the scale of no layer; take it out, or convert these adapters again")
        up = scaled[ups[0]]
        scaled[ups[0]] = up.float() * (tensors[name].item() / up.shape[1])
    return scaled


def metadata_of(path: Path) -> dict[str, str]:
    """Read the metadata of a LoRA file."""
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def refuse_unread(tensors: Mapping[str, torch.Tensor], noted: Mapping[str, str], where: str) -> None:
    """Refuse a file whose metadata alone, by a trainer's own name, has an alpha that is not the rank of every layer.

    Raises:
        UserError: naming it; diffusers would take the rank for it.
    """
    name = next((name for name in ALPHA_NOTED if name in noted), None)
    ranks = {tensor.shape[1] for layer, tensor in tensors.items() if UP.search(layer) and tensor.dim() > 1}
    if name is None or ranks <= {_number(noted[name])}:
        return
    raise UserError(
        f"{where}: its metadata says {name} {noted[name]} at rank {', '.join(map(str, sorted(ranks)))}, and its "
        "tensors have no alpha; convert it to a file with an alpha for each layer, or with the scale in its weights"
    )


def refuse_lost(metadata: Mapping[str, str], where: str) -> None:
    """Refuse a pipeline's file whose metadata has a scale other than 1, and whose names have to be converted.

    diffusers reads the metadata only of a file that it opens itself, under its own names.

    Raises:
        UserError: naming the setting.
    """
    noted = json.loads(metadata.get(NOTED, "{}"))
    parts = {name.rpartition(".")[0] for name in noted if name.endswith(".lora_alpha")}
    for part in sorted(parts):
        alpha = noted[f"{part}.lora_alpha"]
        rank = noted.get(f"{part}.r")
        patterns = [noted.get(f"{part}.{name}") for name in ("rank_pattern", "alpha_pattern", "use_rslora")]
        if alpha != rank or any(patterns):
            raise UserError(
                f"{where}: its metadata says {part}.lora_alpha {alpha} at rank {rank}, under names that diffusers has "
                "to convert, which would lose this; save these adapters again with the pipeline's save_lora_weights"
            )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def of_network(metadata: Mapping[str, str], where: str) -> float:
    """Return the scale that a network's save_lora_adapter notes in the file's metadata; 1 where it notes none.

    Raises:
        UserError: if it notes one for each layer.
    """
    noted = json.loads(metadata.get(NOTED, "{}"))
    if not isinstance(noted, dict) or not {"r", "lora_alpha"} <= noted.keys():
        return 1.0
    if noted.get("rank_pattern") or noted.get("alpha_pattern") or noted.get("use_rslora"):
        raise UserError(
            f"{where}: its metadata has a scale for each layer; save these adapters with the pipeline's "
            "save_lora_weights"
        )
    return float(noted["lora_alpha"] / noted["r"])
