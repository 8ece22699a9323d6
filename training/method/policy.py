"""What is trained: every weight of the network, or adapters beside frozen ones (LoRA), and their running average.

LoRA (Hu et al. 2021, arXiv 2106.09685): a layer W x becomes W x + (alpha/rank) B A x with B = 0 at the start. The
policy then is its own reference as long as the adapters are off, so one network in memory serves as both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from infra.base import (
    models,
    torchvision_guard,  # noqa: F401  (before diffusers and peft)
)
from infra.base.errors import UserError
from pipelines.latents.kinds import kind_of
from pipelines.latents.kinds_known import ATTENTION
from training.backbones.backbone import Backbone
from training.layout import base_precision
from training.layout.sharding import is_sharded
from training.method import forward
from training.method.batch import Batch
from training.method.policy_config import PolicyConfig


def make_policy(
    config: PolicyConfig,
    backbone: Backbone,
    seed: int,
    device: torch.device | None = None,
    offload: bool = False,
) -> torch.nn.Module:
    """Load the network to train onto a device, by default the CPU; float32, and with a rank frozen, beside adapters.

    The adapters are a function of the seed. What is frozen has the base precision.

    Args:
        offload: keep the frozen blocks in CPU memory until they are used.

    Raises:
        UserError: if the network has no such layers as are to be adapted, or a package for the precision is missing.
    """
    device = device or torch.device("cpu")
    base_precision.check_package(config.base_precision)
    network = backbone.load_network()
    if not config.lora_rank:
        return network.to(device)
    add_adapters(network, config, seed, kind_of(backbone.folder).lora)
    backbone.freeze_idle(network)
    return base_precision.lower(network, config.base_precision, device, offload)


def add_adapters(network: Any, config: PolicyConfig, seed: int, usual: tuple[str, ...] = ATTENTION) -> torch.nn.Module:
    """Freeze a diffusers network and add adapters to it; B is zero, so it still computes what it did.

    Args:
        usual: ends of the names of the layers to adapt where the settings choose none; of a model, its kind's.

    Raises:
        UserError: as lora_targets does.
    """
    from peft import LoraConfig

    network.requires_grad_(False)
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha or config.lora_rank,
        target_modules=lora_targets(network, config.lora_targets, usual),
        init_lora_weights="gaussian",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the same A on every rank and in every run
        network.add_adapter(settings)
    return network.eval()


def lora_targets(network: torch.nn.Module, wanted: tuple[str, ...], usual: tuple[str, ...] = ATTENTION) -> list[str]:
    """Return the ends of the names of the layers to adapt; by default those of its kind that the network has.

    Args:
        usual: the kind's, of kinds_known.KINDS. One that some modules have which are no layers stands for the whole
            names of the layers among them: in FLUX.2's single blocks `attn.to_out` is a layer, elsewhere a list of one.

    Raises:
        UserError: naming the wanted ends that no layer has, and all names that layers have.
    """
    layers = {name: isinstance(module, torch.nn.Linear | torch.nn.Conv2d) for name, module in network.named_modules()}

    def is_adaptable(target: str) -> bool:
        named = [fits for name, fits in layers.items() if f".{name}".endswith(f".{target}")]
        return bool(named) and all(named)

    def spelled(target: str) -> list[str]:
        if is_adaptable(target):
            return [target]
        return [name for name, fits in layers.items() if fits and f".{name}".endswith(f".{target}")]

    targets = list(wanted) or [name for target in usual for name in spelled(target)]
    unknown = [target for target in targets if not is_adaptable(target)]
    if unknown or not targets:
        known = sorted({_short(name) for name, fits in layers.items() if fits})
        if not unknown:
            raise UserError(
                "--lora-rank: this network has none of the usual attention projections to adapt; name its layers with "
                f"--lora-targets, from {', '.join(known)}"
            )
        raise UserError(
            f"--lora-targets {' '.join(unknown)}: not the name of linear or convolution layers here; "
            f"there are {', '.join(known)}"
        )
    return targets


def _short(name: str) -> str:
    """Return the last part of a layer's name; where that is a place in a list, the part before it too: to_out.0."""
    rest, _, last = name.rpartition(".")
    return f"{rest.rpartition('.')[2]}.{last}" if rest and last.isdigit() else last


def load_adapters(network: Any, folder: Path, network_folder: str) -> torch.nn.Module:
    """Add the adapters of a LoRA result to a network that has none."""
    network.load_lora_adapter(
        str(folder), prefix=network_folder, weight_name=models.ADAPTERS, use_safetensors=True, local_files_only=True
    )
    return network.eval()


def trained(network: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the weights that are trained, by name, in the network's order."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def load_weights(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put values in place of the trained weights, bit for bit; both must have the same names."""
    for (name, parameter), (same, value) in zip(sorted(trained(network).items()), sorted(tensors.items()), strict=True):
        if name != same:
            raise KeyError(f"{same}: not a trained weight of this network, which has {name}")
        parameter.data.copy_(value)


@contextlib.contextmanager
def adapters_off(network: Any) -> Iterator[None]:
    """Make a network with adapters compute what it computes without them; they are on again after an error too."""
    network.disable_adapters()
    try:
        yield
    finally:
        network.enable_adapters()


@dataclass(frozen=True)
class AdaptersOff:
    """The reference of a LoRA policy: the policy's own network, unwrapped, with its adapters off."""

    backbone: Backbone
    network: torch.nn.Module
    autocast: torch.dtype

    @torch.no_grad()
    def errors(self, batch: Batch) -> torch.Tensor:
        """Return the errors [2, B] of winners and losers, in the same shapes as the policy's pass."""
        with adapters_off(self.network):
            return forward.pair_errors(self.backbone, self.network, batch, self.autocast)


class Average:
    """Exponential moving average of the trained weights: those of step 1, then decay * average + (1 - decay) * new.

    It looks back over about 1 / (1 - decay) steps.
    """

    def __init__(self, decay: float, network: torch.nn.Module) -> None:
        from diffusers.training_utils import EMAModel

        self.network = network
        # Equal bounds: diffusers' own ramp, (1 + step) / (10 + step), would make the decay depend on the run's length.
        together = not is_sharded(network)  # shards have no such operation
        self.ema = EMAModel(self._parameters(), decay=decay, min_decay=decay, foreach=together)

    def _parameters(self) -> list[torch.nn.Parameter]:
        return list(trained(self.network).values())

    def update(self) -> None:
        """Take in the weights after a step."""
        self.ema.step(self._parameters())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the averages by the names of the weights."""
        return dict(zip(trained(self.network), self.ema.shadow_params, strict=True))

    def load(self, tensors: Mapping[str, torch.Tensor], step: int) -> None:
        """Go on from the averages after a step, bit for bit."""
        for name, shadow in self.tensors().items():
            shadow.copy_(tensors[name])
        self.ema.optimization_step = step

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages in the weights' place for a while, to be judged; the weights come back bit for bit."""
        self.ema.store(self._parameters())
        self.ema.copy_to(self._parameters())
        try:
            yield
        finally:
            self.ema.restore(self._parameters())
