"""What is trained: the flags, apart from the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from infra.base.errors import UserError

BasePrecision = Literal["float32", "bfloat16", "fp8", "nf4"]


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """What is trained, and what of it counts."""

    lora_rank: int = 0
    """Rank of LoRA adapters to train in place of the network, for example 16; 0 trains the network itself."""
    lora_alpha: int | None = None
    """Scale of the adapters, as alpha / rank; by default alpha is the rank."""
    lora_targets: tuple[str, ...] = ()
    """Layers that get adapters, by the ends of their names; by default the attention projections."""
    base_precision: BasePrecision = "float32"
    """Number format of the frozen weights under --lora-rank: bfloat16 halves their memory and changes no loss, fp8
    takes a quarter, nf4 a seventh; adapters, errors and updates stay float32. Others than float32 need --precision
    bfloat16."""
    ema_decay: float | None = None
    """Decay per step of a moving average of the weights, for example 0.999. Validation and result then take the
    average; by default there is none."""


def check_base_precision(base_precision: str, precision: str) -> None:
    """Refuse weights in a format that the forward pass does not compute with.

    Raises:
        UserError: naming the flags.
    """
    if base_precision != "float32" and precision != "bfloat16":
        raise UserError(
            f"--base-precision {base_precision}: its products are computed in bfloat16, and this is --precision "
            f"{precision}; give --precision bfloat16"
        )
