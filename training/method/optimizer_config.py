"""The optimizer's flags, its rate as a function of the step, and what it refuses, apart from what makes it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from infra.base.errors import UserError

if TYPE_CHECKING:
    import torch

FIRST_ON_CPU = (0, 50)  # the version of bitsandbytes whose 8-bit AdamW needs no GPU


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer, and its rate: linear warm-up, then constant."""

    optimizer: Literal["adamw", "adafactor", "adamw8bit"] = "adamw"
    """adamw is the paper's for SD1.5. adafactor is its choice for SDXL and takes a fraction of the memory. adamw8bit
    is bitsandbytes', which needs a GPU before its version 0.50."""
    learning_rate: float = 1e-5
    """Learning rate after the warm-up."""
    warmup_steps: int = 20
    """Steps in which the learning rate rises from 0, linearly; then it is constant."""
    adam_beta1: float = 0.9
    """For AdamW: decay of the mean of gradients."""
    adam_beta2: float = 0.999
    """For AdamW: decay of the mean of squared gradients."""
    adam_epsilon: float = 1e-8
    """For AdamW: term that keeps the division stable."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    max_gradient_norm: float = 1.0
    """Norm to which gradients are cut; inf is no limit."""


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Return the rate of a step: linear warm-up, then constant."""
    warmup = config.warmup_steps
    return config.learning_rate * min(1.0, (step + 1) / warmup if warmup else 1.0)


def check_optimizer(config: OptimizerConfig, device: torch.device | None = None) -> None:
    """Refuse an optimizer that is not installed or, where the device is known, cannot run on it.

    Raises:
        UserError: in one sentence.
    """
    if config.optimizer != "adamw8bit":
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("--optimizer adamw8bit: bitsandbytes is not installed; pip install bitsandbytes, or take adamw")
    if device is None or device.type == "cuda":
        return
    installed = importlib.metadata.version("bitsandbytes")
    if tuple(int(part) for part in installed.split(".")[:2]) < FIRST_ON_CPU:
        raise UserError(
            f"--optimizer adamw8bit: this worker has a {device.type}, on which bitsandbytes {installed} does not work; "
            f"install {'.'.join(map(str, FIRST_ON_CPU))} or later, or take adamw"
        )
