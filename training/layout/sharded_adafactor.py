"""Adafactor over sharded weights.

Its second moment is a row and a column of each matrix and its clipping an RMS of the whole update, so a shard alone
does not have what its update needs. Each matrix is gathered once a step, with its gradient, and updated whole on every
worker: transformers' own arithmetic, equal to the unsharded one bit for bit. Rows and columns are kept whole too; they
are small, but for convolutions, where transformers factors only the kernels: two thirds of such a weight for 3 x 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.tensor import distribute_tensor

from infra.base import (
    torchvision_guard,  # noqa: F401  (before transformers)
)
from training.layout.sharding import whole

from transformers.optimization import Adafactor  # isort: skip


class ShardedAdafactor(Adafactor):
    """transformers' Adafactor for weights of which each worker holds a share; all workers must step together."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Update each weight as a whole one, and keep this worker's share of it."""
        assert closure is None
        for group in self.param_groups:
            shards = group["params"]
            try:
                for shard in shards:
                    gradient = shard.grad
                    if gradient is not None:
                        self._update(group, shard, gradient)
            finally:
                group["params"] = shards

    def _update(self, group: dict[str, Any], shard: torch.nn.Parameter, gradient: torch.Tensor) -> None:
        gathered = torch.nn.Parameter(whole(shard.detach()))
        gathered.grad = whole(gradient)
        group["params"] = [gathered]
        self.state[gathered] = self.state[shard]
        super().step()
        del self.state[gathered]
        mesh = shard.device_mesh  # type: ignore[attr-defined]
        placements = shard.placements  # type: ignore[attr-defined]
        shard.copy_(distribute_tensor(gathered.detach(), mesh, placements, src_data_rank=None))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state, and gather what of it came in shards."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name, value in state.items():
                state[name] = whole(value) if isinstance(value, torch.Tensor) else value
