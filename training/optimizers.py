"""The optimizers and the learning rate, a function of the step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up, then a constant rate."""

    learning_rate: float = 1e-5
    warmup_steps: int = 20
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Return the rate of a step: linear warm-up, then constant."""
    warmup = config.warmup_steps
    return config.learning_rate * min(1.0, (step + 1) / warmup if warmup else 1.0)


def make_optimizer(
    config: OptimizerConfig, parameters: Iterable[torch.nn.Parameter], device: torch.device
) -> torch.optim.AdamW:
    """Make the optimizer over float32 master weights, in one fused kernel on a GPU."""
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=device.type == "cuda",
    )
