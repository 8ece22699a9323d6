"""Frozen blocks in CPU memory: the block in use and the one that comes next are on the device (`--offload blocks`).

diffusers' group offloading puts a block's weights away after its forward pass. A backward pass would find them on the
CPU, so here each layer asks for its weights in both passes (training/layout/base_precision.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

ALIGNED = 256  # bytes; kernels sum in an order that depends on an address


@dataclass(frozen=True)
class Place:
    """Where a tensor lies among the bytes of its block."""

    block: int
    begin: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def of(self, stored: torch.Tensor) -> torch.Tensor:
        """View the tensor in its block's bytes."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return stored[self.begin : self.begin + size].view(self.dtype).view(self.shape)


class OffloadedBlocks:
    """Blocks of weights that lie in CPU memory. One copy to the device brings a whole block.

    The next block is known from the last time that the same two came one after the other: forward and backward passes
    are told apart so. On a GPU it is copied on a stream of its own while the block before computes.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stored: list[torch.Tensor] = []  # bytes of each block, pinned where a GPU reads them
        self.here: dict[int, tuple[torch.Tensor, torch.cuda.Event | None]] = {}
        self.follows: dict[tuple[int, int], int] = {}
        self.latest = (-1, -1)  # the block before the one in use, and that one
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def add(self, tensors: Sequence[torch.Tensor]) -> list[Place]:
        """Store a block's tensors, and return where each one lies."""
        places = []
        end = 0
        for tensor in tensors:
            places.append(Place(len(self.stored), end, tuple(tensor.shape), tensor.dtype))
            end += -(-tensor.nbytes // ALIGNED) * ALIGNED
        stored = torch.empty(end, dtype=torch.uint8, pin_memory=self.stream is not None)
        for tensor, place in zip(tensors, places, strict=True):
            place.of(stored).copy_(tensor)
        self.stored.append(stored)
        return places

    def on_device(self, place: Place) -> torch.Tensor:
        """Return a tensor on the device; its block comes now if it did not come ahead."""
        block = place.block
        if block != self.latest[1]:
            self.follows[self.latest] = block
            self.latest = (self.latest[1], block)
            following = self.follows.get(self.latest, block)
            for other in set(self.here) - {block, following}:
                del self.here[other]
            self._bring(block)
            copied = self.here[block][1]
            if copied is not None:
                torch.cuda.current_stream(self.device).wait_event(copied)
            self._bring(following)
        return place.of(self.here[block][0])

    def _bring(self, block: int) -> None:
        if block in self.here:
            return
        stored = self.stored[block]
        target = torch.empty_like(stored, device=self.device)
        if self.stream is None:
            target.copy_(stored)
            self.here[block] = (target, None)
            return
        self.stream.wait_stream(torch.cuda.current_stream(self.device))  # what last used this memory
        with torch.cuda.stream(self.stream):
            target.copy_(stored, non_blocking=True)
        target.record_stream(self.stream)
        self.here[block] = (target, self.stream.record_event())
