"""The optimizers, what a checkpoint keeps of them, and the learning rate, a function of the step."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.distributed.tensor import DTensor

from infra.base.errors import UserError

NUMBER = "number:"  # marks what is a Python number in the optimizer and a tensor of one element in the file


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer, and its rate: linear warm-up, then constant."""

    optimizer: Literal["adamw", "adafactor", "adamw8bit"] = "adamw"
    """adamw is the paper's for SD1.5. adafactor is its choice for SDXL and takes a fraction of the memory. adamw8bit
    is bitsandbytes', and needs a GPU."""
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
    if device is not None and device.type != "cuda":
        raise UserError(f"--optimizer adamw8bit: needs a GPU, this worker has a {device.type}; take adamw")


def make_optimizer(
    config: OptimizerConfig, parameters: Iterable[torch.nn.Parameter], device: torch.device
) -> torch.optim.Optimizer:
    """Make the optimizer over float32 master weights; AdamW in one fused kernel on a GPU.

    Adafactor (Shazeer and Stern 2018, arXiv 1804.04235) has the settings of the paper's SDXL runs: no scaling by the
    weights' RMS, which torch's own Adafactor cannot leave out, a rate given from outside, updates clipped at RMS 1.
    """
    parameters = list(parameters)
    betas = (config.adam_beta1, config.adam_beta2)
    match config.optimizer:
        case "adamw":
            return torch.optim.AdamW(
                parameters,
                lr=config.learning_rate,
                betas=betas,
                eps=config.adam_epsilon,
                weight_decay=config.weight_decay,
                fused=device.type == "cuda",
            )
        case "adafactor":
            return _adafactor_of(parameters)(
                parameters,
                lr=config.learning_rate,
                clip_threshold=1.0,
                weight_decay=config.weight_decay,
                scale_parameter=False,
                relative_step=False,
            )
        case "adamw8bit":
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit(
                parameters,
                lr=config.learning_rate,
                betas=betas,
                eps=config.adam_epsilon,
                weight_decay=config.weight_decay,
            )


def _adafactor_of(parameters: list[torch.nn.Parameter]) -> Any:  # a class
    if any(isinstance(parameter, DTensor) for parameter in parameters):
        from training.layout.sharded_adafactor import ShardedAdafactor

        return ShardedAdafactor
    from transformers.optimization import Adafactor

    return Adafactor


def state_tensors(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, torch.nn.Parameter]
) -> dict[str, torch.Tensor]:
    """Return the optimizer's state as tensors of any shape and dtype, named by what they are and of which weight."""
    tensors = {}
    for name, parameter in weights.items():
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, torch.Tensor):
                tensors[f"{key}/{name}"] = value
            else:
                wide = torch.float64 if isinstance(value, float) else torch.int64
                tensors[f"{NUMBER}{key}/{name}"] = torch.tensor(value, dtype=wide)
    return tensors


def load_state(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, torch.nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Take up a state that state_tensors gave, bit for bit; each tensor goes where this optimizer wants it.

    Args:
        weights: those that the optimizer was made over, in the same order.
    """
    state: dict[int, dict[str, Any]] = {}
    places = {name: place for place, name in enumerate(weights)}
    for label, value in tensors.items():
        key, name = label.split("/", 1)
        kept = value.item() if key.startswith(NUMBER) else value
        state.setdefault(places[name], {})[key.removeprefix(NUMBER)] = kept
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
