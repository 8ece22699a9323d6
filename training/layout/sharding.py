"""How the network lies on the workers and runs there: replicated or sharded, checkpointed, compiled, channels last."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from infra.base.errors import UserError
from training.layout.sharding_config import ShardingConfig

COMPILERS = ("c++", "g++", "clang++")


def check_compiler(config: ShardingConfig) -> None:
    """Refuse to compile on a worker that cannot, before it loads a model.

    Raises:
        UserError: if there is no compiler.
    """
    if config.compile and not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *COMPILERS) if name):
        raise UserError(
            f"--compile: torch.compile needs a C++ compiler ({', '.join(COMPILERS)}), and this worker has none; "
            "install one, or leave --compile out"
        )


def prepare(config: ShardingConfig, network: Any, autocast: torch.dtype, device: torch.device, world_size: int) -> None:
    """Lay a diffusers network out on its device, in place, before there is an optimizer; names of weights stay."""
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    if config.activation_checkpointing:
        network.enable_gradient_checkpointing()
    sharded = config.sharding == "fsdp" and world_size > 1
    parts = repeated_blocks(network) if sharded else [network]
    if config.compile:
        for part in parts:  # of a sharded network the blocks alone: between them its weights are gathered
            part.compile()
    if sharded:
        mesh = init_device_mesh(device.type, (world_size,))
        low = None if autocast == torch.float32 else autocast
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)  # the master weights are float32
        for part in parts:
            fully_shard(part, mesh=mesh, mp_policy=policy)
        # What leaves the network is float32: samplers would hand a lower dtype on to a float32 decoder.
        outer = replace(policy, cast_forward_inputs=False, output_dtype=torch.float32)
        fully_shard(network, mesh=mesh, mp_policy=outer)
        if low is not None:
            network.register_forward_pre_hook(partial(cast_inputs, low), with_kwargs=True)


def cast_inputs(dtype: torch.dtype, _: torch.nn.Module, args: Any, kwargs: Any) -> Any:
    """Cast what a network multiplies its weights with, and leave timesteps [B]: a flow's 997.3 would become 996."""

    def cast(value: Any) -> Any:
        multiplied = isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 1
        return value.to(dtype) if multiplied else value

    return tree_map(cast, (args, kwargs))


def repeated_blocks(network: Any) -> list[torch.nn.Module]:
    """Return the blocks that a diffusers network names as its units, inner ones before those that hold them."""
    names = {*(network._no_split_modules or ()), *(getattr(network, "_repeated_blocks", None) or ())}
    return [module for module in reversed(list(network.modules())) if type(module).__name__ in names]


def is_sharded(network: torch.nn.Module) -> bool:
    """Say whether each worker holds but a share of a network."""
    return isinstance(network, FSDPModule)


def replicate(network: torch.nn.Module, world_size: int) -> torch.nn.Module:
    """Wrap a network so that backward passes average gradients over the workers; a sharded one does so by itself."""
    if world_size == 1 or is_sharded(network):
        return network
    return DistributedDataParallel(network, gradient_as_bucket_view=True)


@contextlib.contextmanager
def synchronised(network: torch.nn.Module, last: bool) -> Iterator[None]:
    """Average gradients over the workers in the backward pass inside the block only if it is the step's last."""
    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(last)
        yield
    elif isinstance(network, DistributedDataParallel) and not last:
        with network.no_sync():
            yield
    else:
        yield


@contextlib.contextmanager
def gathered(networks: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Hold sharded networks whole inside the block, where each worker may run them as often as it likes.

    A forward pass of a sharded network is one of all workers together; images and held-out pairs are shared out
    unevenly. There are no backward passes inside.
    """
    sharded = [network for network in networks if isinstance(network, FSDPModule)]
    parts = [part for network in sharded for part in network.modules() if isinstance(part, FSDPModule)]
    for network in sharded:
        network.set_reshard_after_forward(False)
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
        for network in sharded:
            network.set_reshard_after_forward(True)


def whole(value: torch.Tensor) -> torch.Tensor:
    """Return a tensor that may be sharded as a whole one, on all workers; all of them must call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole_trained_state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Collect a sharded network's trained weights in CPU memory on rank 0; other ranks get none, but must call this."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    return get_model_state_dict(network, options=options)  # type: ignore[return-value]
