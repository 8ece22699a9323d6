"""What all backbones share: which timesteps are drawn, and how a network is loaded from a diffusers folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from infra.base import (
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError

from diffusers import ModelMixin  # isort: skip
from training.backbones.schedule_config import ScheduleConfig


class DiffusersNetwork:
    """The network of a diffusers folder, and the timesteps that it is trained on."""

    network_class: type[ModelMixin]
    network_folder: str
    timesteps: int
    rounds_time = False

    def __init__(self, folder: Path, config: ScheduleConfig) -> None:
        self.folder = folder
        self.chosen = config.timesteps

    def load_network(self) -> Any:
        """Load the network to train, float32, without dropout: policy and reference must see the same function.

        Raises:
            UserError: if its weights are not safetensors.
        """
        models.default_weights(self.folder, self.network_folder)
        network = self.network_class.from_pretrained(
            self.folder, subfolder=self.network_folder, use_safetensors=True, dtype=torch.float32
        )
        self.freeze_idle(network)
        return models.own_memory(network).eval()

    def idle_parts(self, network: torch.nn.Module) -> tuple[str, ...]:  # noqa: ARG002
        """Name the parts of a network whose outputs nothing reads, so that their weights never get a gradient."""
        return ()

    def freeze_idle(self, network: torch.nn.Module) -> None:
        """Freeze the weights, adapters' too, that never get a gradient: workers would wait for it."""
        idle = tuple(f"{part}." for part in self.idle_parts(network))
        for name, parameter in network.named_parameters():
            if name.startswith(idle):
                parameter.requires_grad_(False)

    def network_settings(self) -> dict[str, Any]:
        """Return the network's settings, defaults that its file leaves out filled in; no weights are read."""
        with torch.device("meta"):
            known = self.network_class.load_config(self.folder, subfolder=self.network_folder)
            network = self.network_class.from_config(known)
        settings = {name: value for name, value in network.config.items() if not name.startswith("_")}
        return json.loads(json.dumps(settings))  # a default may be a tuple where a file has a list

    def check_timesteps(self, informative: Sequence[bool] | None = None) -> None:
        """Refuse chosen timesteps that the schedule does not have, or that teach nothing.

        Args:
            informative: [timesteps], false where both slots' inputs and targets are the same; by default all teach.

        Raises:
            UserError: naming the timestep.
        """
        for chosen in self.chosen or ():
            if not 0 <= chosen < self.timesteps:
                raise UserError(f"--timesteps {chosen}: {self.folder} has timesteps 0 to {self.timesteps - 1}")
            if informative is not None and not informative[chosen]:
                raise UserError(
                    f"--timesteps {chosen}: is pure noise, where both slots' inputs are the same and the margin is 0"
                )
        if self.chosen is not None and not self.chosen:
            raise UserError("--timesteps: needs at least one timestep")
