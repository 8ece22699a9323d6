"""The numbers in which a frozen network's weights are held: bfloat16, fp8 or nf4 in place of float32.

Products are computed in bfloat16 whatever holds the weights, as autocast computes them. Norms and adapters stay
float32. nf4 is that of QLoRA (Dettmers et al. 2023, arXiv 2305.14314, Sec. 3) without its second quantisation.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from infra.base.errors import UserError
from training.layout.offload import OffloadedBlocks, Place
from training.layout.sharding import repeated_blocks

PACKED = ("fp8", "nf4")
PRODUCTS = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)  # whose weights autocast narrows
ADAPTER = "lora_"  # in the names of adapters' layers
FLOAT8 = torch.float8_e4m3fn
FLOAT8_MOST = 448.0  # its largest number
BLOCK = 64  # weights of nf4 that share a scale


def check_package(precision: str, asked_by: str = "--base-precision nf4") -> None:
    """Refuse a precision whose package is missing here, before a model is loaded.

    Args:
        asked_by: what asks for nf4, for the message.

    Raises:
        UserError: naming the package.
    """
    if precision == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"{asked_by}: this worker lacks the package bitsandbytes, without which there are no nf4 weights; install "
            "the extra nf4 (pip install '.[nf4]'), or train beside fp8, which needs no package"
        )


def lower(network: Any, precision: str, device: torch.device, offload: bool = False) -> Any:
    """Hold a network's frozen weights in a lower precision, in place, move it to a device, and return it.

    Linear layers of the repeated blocks, which have nearly all weights, get the precision; fp8 and nf4 leave other
    linear layers and convolutions bfloat16. What autocast computes in float32, norms for one, stays float32. Layers
    are moved and packed one by one, so the device never holds the network in float32.

    Args:
        network: of diffusers, frozen but for adapters; on the meta device it stays there.
        precision: float32 (which changes nothing), bfloat16, fp8 or nf4.
        offload: keep the blocks' linear layers in CPU memory until they are used.
    """
    if precision in PACKED and device.type != "meta":  # a plan needs no package
        check_package(precision)
    blocks = OffloadedBlocks(device) if offload else None
    if offload or precision in PACKED:
        for layers in _block_layers(network):
            frozen = [FrozenLinear(layer.to(device), precision) for _, _, layer in layers]
            for (parent, name, _), layer in zip(layers, frozen, strict=True):
                setattr(parent, name, layer)
            if blocks is not None:
                _offload(frozen, blocks)
    if precision != "float32":
        for product in _frozen_products(network):
            for tensor in product.parameters():
                tensor.data = tensor.data.bfloat16()
    return network.to(device)


def block_bytes(network: torch.nn.Module) -> list[int]:
    """Count the bytes of each repeated block that offloading takes off the device."""
    seen: set[int] = set()
    sizes = []
    for block in repeated_blocks(network):
        own = [
            part
            for name, part in block.named_modules()
            if isinstance(part, (torch.nn.Linear, FrozenLinear)) and ADAPTER not in name and id(part) not in seen
        ]
        seen |= {id(part) for part in own}
        sizes.append(sum(weight.nbytes for part in own for weight in part.parameters()))
    return sizes


Layers = list[tuple[torch.nn.Module, str, torch.nn.Linear]]  # each with the module that holds it and its name there


def _block_layers(network: torch.nn.Module) -> list[Layers]:
    """List the frozen linear layers of each repeated block; of blocks in blocks the inner ones have theirs."""
    seen: set[int] = set()
    blocks = []
    for block in repeated_blocks(network):
        layers: Layers = []
        for path, parent in block.named_modules():
            for name, layer in parent.named_children():
                if isinstance(layer, torch.nn.Linear) and ADAPTER not in f"{path}.{name}" and id(layer) not in seen:
                    seen.add(id(layer))
                    layers.append((parent, name, layer))
        if layers:
            blocks.append(layers)
    return blocks


def _frozen_products(network: torch.nn.Module) -> list[torch.nn.Module]:
    """List the frozen layers whose weights autocast makes narrow."""
    return [
        layer
        for name, layer in network.named_modules()
        if isinstance(layer, PRODUCTS) and ADAPTER not in name and not layer.weight.requires_grad
    ]


def _offload(layers: Sequence[FrozenLinear], blocks: OffloadedBlocks) -> None:
    """Take a block's weights out of its layers, into CPU memory."""
    places = blocks.add([tensor for layer in layers for tensor in layer.held()])
    for layer in layers:
        layer.blocks = blocks
        layer.places = [places.pop(0) for _ in layer.held()]
        layer.weight = layer.scale = layer.bias = None


class FrozenLinear(torch.nn.Module):
    """A frozen linear layer whose weights are packed, or lie elsewhere, or both.

    fp8 has a scale for each row, nf4 one for 64 weights. The wide weights are made for the forward pass, and again for
    the backward pass; in between none are kept.
    """

    compute_dtype = torch.bfloat16  # what diffusers asks a quantised layer for, instead of its weight's dtype

    def __init__(self, layer: torch.nn.Linear, precision: str) -> None:
        super().__init__()
        self.precision = precision
        self.shape = (layer.out_features, layer.in_features)
        self.blocks: OffloadedBlocks | None = None
        self.places: list[Place] = []
        weight, scale = _pack(layer.weight.detach(), precision)
        bias = None if layer.bias is None else layer.bias.detach()
        if bias is not None and precision != "float32":
            bias = bias.bfloat16()
        # Parameters and not buffers: DistributedDataParallel sends buffers at every forward pass.
        held = [None if one is None else torch.nn.Parameter(one, requires_grad=False) for one in (weight, scale, bias)]
        self.weight, self.scale, self.bias = held
        self.has_scale = scale is not None
        self.has_bias = bias is not None

    def held(self) -> list[torch.Tensor]:
        """Return weight, scale and bias, as far as the layer has them."""
        return [one for one in (self.weight, self.scale, self.bias) if one is not None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x W^T + b, [..., in] to [..., out], in autocast's dtype; packed weights compute in bfloat16."""
        device = x.device.type
        dtype = x.dtype
        if self.precision in PACKED:
            dtype = self.compute_dtype
        elif torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        return _Product.apply(x.to(dtype), self)  # type: ignore[no-any-return]

    def wide(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the weights [out, in] and the bias [out], on the device."""
        held = iter(self.held() if self.blocks is None else [self.blocks.on_device(place) for place in self.places])
        weight = next(held)
        scale = next(held) if self.has_scale else None
        bias = next(held) if self.has_bias else None
        bias = None if bias is None else bias.to(dtype)
        if scale is None:
            return weight.to(dtype), bias
        if self.precision == "fp8":
            return weight.view(FLOAT8).to(dtype).mul_(scale), bias
        return _unpack_nf4(weight, scale, self.shape), bias


class _Product(torch.autograd.Function):
    """x W^T + b without a gradient for W and b, which keeps no weights for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: FrozenLinear) -> torch.Tensor:
        ctx.layer = layer
        weight, bias = layer.wide(x.dtype)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        weight, _ = ctx.layer.wide(gradients[0].dtype)
        rows = gradients[0].reshape(-1, weight.shape[0])
        return rows.mm(weight).view(*gradients[0].shape[:-1], weight.shape[1]), None


def _pack(weight: torch.Tensor, precision: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return weights as they are held, and their scales if they have any."""
    if precision in PACKED:
        return (_pack_fp8 if precision == "fp8" else _pack_nf4)(weight.float())
    return (weight if precision == "float32" else weight.bfloat16()), None


def _pack_fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale each row so that its largest weight is the largest float8; the scale is rounded before it is used."""
    most = weight.abs().amax(1, keepdim=True)
    scale = torch.where(most > 0, most / FLOAT8_MOST, 1).bfloat16()
    return (weight / scale).to(FLOAT8).view(torch.uint8), scale


def _pack_nf4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two weights a byte [n/2, 1] uint8, and the largest weight of each block of 64, float32."""
    if weight.is_meta:  # for plans, which need no package
        packed = torch.empty(-(-weight.numel() // 2), 1, dtype=torch.uint8, device="meta")
        return packed, torch.empty(-(-weight.numel() // BLOCK), device="meta")
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(weight.contiguous(), blocksize=BLOCK, quant_type="nf4")
    return packed, state.absmax


def _unpack_nf4(packed: torch.Tensor, scale: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    if packed.is_meta:
        return torch.empty(shape, dtype=FrozenLinear.compute_dtype, device="meta")
    from bitsandbytes.functional import QuantState, dequantize_4bit

    # Its argument `out` would do without a state, but bitsandbytes 0.50.2 has that for GPUs alone.
    state = QuantState(
        absmax=scale,
        shape=torch.Size(shape),
        dtype=FrozenLinear.compute_dtype,
        blocksize=BLOCK,
        quant_type="nf4",
    )
    return dequantize_4bit(packed, state)
