"""What is trained: the flags, apart from the network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PolicyConfig:
    """What is trained, and what of it counts."""

    lora_rank: int = 0
    """Rank of LoRA adapters to train in place of the network, for example 16; 0 trains the network itself."""
    lora_alpha: int | None = None
    """Scale of the adapters, as alpha / rank; by default alpha is the rank."""
    lora_targets: tuple[str, ...] = ()
    """Layers that get adapters, by the ends of their names; by default the attention projections."""
    ema_decay: float | None = None
    """Decay per step of a moving average of the weights, for example 0.999. Validation and result then take the
    average; by default there is none."""
