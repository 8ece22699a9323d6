"""Which tensors of a LoRA file diffusers' converters leave out, some of them without a word."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch

Tensors = Mapping[str, torch.Tensor]
LAYER = re.compile(r"[._](?:lora[._]|diff).*")  # the end of a tensor's name behind that of its layer


def lost(tensors: Tensors, convert: Callable[[Tensors], Tensors]) -> list[str]:
    """Name the tensors that have an effect and that a conversion leaves out.

    Each tensor is replaced by a number of its own, which a converter that renames, splits or joins tensors hands on.

    Args:
        tensors: of the file, without scales.
        convert: the conversion.
    """
    numbers = {name: float(number) for number, name in enumerate(tensors, 1)}
    numbered = {name: torch.full((), numbers[name]).expand(tensor.shape) for name, tensor in tensors.items()}
    handed_on = set[float]()
    for tensor in convert(numbered).values():
        handed_on |= _values(tensor.float())
    gone = [name for name in tensors if numbers[name] not in handed_on]
    idle = {layer_of(name) for name, tensor in tensors.items() if gone and not tensor.any()}
    return [name for name in gone if layer_of(name) not in idle]


def layer_of(name: str) -> str:
    """Return the layer's part of a tensor's name."""
    return LAYER.sub("", name)


def _values(tensor: torch.Tensor) -> set[float]:
    """Return the numbers of blocks that were joined along rows, columns or the diagonal, with zeros between."""
    if tensor.dim() < 2:
        return set(tensor.unique().tolist())
    matrix = tensor.flatten(1)
    return set(matrix.amax(1).unique().tolist()) | set(matrix.amax(0).unique().tolist())
