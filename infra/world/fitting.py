"""What the trainings of the embedded world share: the learning rate's course, and averaged weights."""

from __future__ import annotations

import numpy as np
import torch


def schedule(step: int, steps: int, warmup: int = 100) -> float:
    """Return the factor on the learning rate: linear warm-up, then a cosine to zero."""
    ramp = min(1.0, (step + 1) / warmup)
    return ramp * 0.5 * (1 + np.cos(np.pi * step / steps))


class Average:
    """Exponential moving average of a module's parameters, with a warm-up so that early steps are forgotten."""

    def __init__(self, module: torch.nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.updates = 0
        self.values = [p.detach().clone() for p in module.parameters()]

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        """Blend the module's current parameters in."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.values, list(module.parameters()), 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: torch.nn.Module) -> None:
        """Overwrite the module's parameters with the average."""
        for parameter, value in zip(module.parameters(), self.values, strict=True):
            parameter.copy_(value)
