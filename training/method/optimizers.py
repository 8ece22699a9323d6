"""The optimizers, what a checkpoint keeps of them, and the learning rate, a function of the step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from training.method.optimizer_config import OptimizerConfig

NUMBER = "number:"  # marks what is a Python number in the optimizer and a tensor of one element in the file


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
