"""What a network costs, counted on the meta device: its FLOPs and the memory of its activations.

Tensors on the meta device have shapes and no contents. So a laptop counts a step of SDXL in seconds, without weights.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from infra.base import (
    files,
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError

import diffusers  # isort: skip
import transformers

META = torch.device("meta")


def make(folder: Path, name: str) -> torch.nn.Module:
    """Make one component of a diffusers folder from its settings alone, with random weights on the default device.

    Raises:
        UserError: if the folder names no such component, or one of a class that diffusers and transformers lack.
    """
    library, class_name = files.read_json(str(folder / "model_index.json")).get(name) or (None, None)
    home = {"diffusers": diffusers, "transformers": transformers}.get(str(library))
    made_by = getattr(home, str(class_name), None)
    settings = models.component_config(folder, name)
    if made_by is None or not settings:
        raise UserError(
            f"{folder}: its {name} is of no class that diffusers or transformers has ({class_name}), so it cannot be "
            "counted; give a folder whose model_index.json names one"
        )
    if home is diffusers:
        return made_by.from_config(settings).eval()
    return made_by(made_by.config_class(**settings)).eval()


def empty(folder: Path, name: str) -> torch.nn.Module:
    """Make one component of a diffusers folder on the meta device: shapes without contents."""
    with META:
        return make(folder, name)


def parameters(network: torch.nn.Module) -> int:
    """Count a network's parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def flops(work: Callable[[], Any]) -> float:
    """Count the floating-point operations of some work, a multiplication with its addition as two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


class Live(TorchDispatchMode):
    """Follows how many bytes are alive among the tensors that are made while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count the storage of what it returns, until that is freed."""
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and id(leaf.untyped_storage()) not in given:
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.bytes -= size


class Autocast(TorchFunctionMode):
    """What torch.autocast does on a GPU, for the meta device: products in `dtype`, norms in float32.

    Attention goes to the flash kernel, as on a GPU: none keeps the matrix of weights. The narrow copy of a trained
    weight stays until autocast ends, as torch keeps it; that of a frozen one is made for each product.
    """

    narrow = (F.linear, F.conv2d, F.conv3d, torch.matmul, torch.bmm)
    wide = (F.group_norm, F.layer_norm)

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self._copies: dict[int, torch.Tensor] = {}  # by the weight's id

    def __exit__(self, *failure: Any) -> None:
        """Let the copies go."""
        self._copies.clear()
        super().__exit__(*failure)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Cast the arguments of an operation and run it."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            inputs = [self._cast(x, self.dtype) for x in (*args, *kwargs.values())[:3]]  # query, key, value
            return torch.ops.aten._scaled_dot_product_flash_attention(*inputs)[0]
        if self.dtype != torch.float32 and func in self.narrow + self.wide:
            dtype = self.dtype if func in self.narrow else torch.float32
            args, kwargs = tree_map(lambda x: self._cast(x, dtype), (args, kwargs))
        return func(*args, **kwargs)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(dtype)
        if id(value) not in self._copies:
            self._copies[id(value)] = value.to(dtype)
        return self._copies[id(value)]


def peak_bytes(
    network: torch.nn.Module, work: Callable[[], torch.Tensor], dtype: torch.dtype, checkpointing: bool = False
) -> int:
    """Count the bytes alive at the peak of a network's pass: of the activations, not the weights.

    With gradients enabled it is the peak of forward and backward. It leaves out the weights' gradients, which are freed
    one by one as they are made. With a narrow dtype it includes autocast's copies of the weights; autocast ends before
    the backward pass, as in a step.

    Args:
        work: runs a forward pass of the network on the meta device.
        dtype: of the products.
        checkpointing: recompute the activations of the network's blocks in the backward pass.
    """
    train = torch.is_grad_enabled()
    for parameter in network.parameters():
        if train and parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_free_gradient)
    if checkpointing:
        recompute = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), Autocast(dtype)))
        network.enable_gradient_checkpointing(lambda module, *given: recompute(module.__call__, *given))  # type: ignore[operator]
    with Live() as live:
        with Autocast(dtype):
            out = work()
        if train:
            out.sum().backward()
    return live.peak


def _free_gradient(parameter: torch.nn.Parameter) -> None:
    parameter.grad = None
