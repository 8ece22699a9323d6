"""How the network lies on the workers: the flags, apart from what lays it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ShardingConfig:
    """What trades memory for time, and time for a longer start; none of it changes a loss beyond rounding."""

    sharding: Literal["ddp", "fsdp"] = "ddp"
    """ddp: each worker holds the whole network. fsdp: workers share weights, gradients and optimizer state."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass: about a third more work, less memory."""
    offload: Literal["none", "blocks"] = "none"
    """blocks: keep the frozen blocks of --lora-rank in CPU memory, and copy each to the GPU shortly before its use."""
    compile: bool = False
    """Compile the network with torch.compile: minutes at the start, faster steps afterwards."""
    channels_last: bool = False
    """Lay out a UNet's convolutions channels last, which is faster on GPUs with tensor cores."""
