"""Held-out implicit accuracy: does the policy, as a reward model, prefer what was preferred? (Sec. 5.5, S4.1.)"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from training.backbones.backbone import Backbone
from training.data.loader import Labelled, assemble
from training.method.batch import Batch
from training.method.draws import REWARD_SEED


@dataclass(frozen=True)
class HeldOut:
    """Fixed pairs at fixed draws, one rank's share of them."""

    data: Labelled
    draws: int
    pairs: int
    batch_size: int
    rank: int
    world_size: int

    def batches(self, timestep: Callable[[float], int]) -> Iterator[tuple[int, npt.NDArray[np.int64], Batch]]:
        """Assemble this rank's batches, each with its draw and its positions among the pairs; no caption is dropped."""
        mine = np.arange(self.pairs)[self.rank :: self.world_size]
        parts = [mine[start : start + self.batch_size] for start in range(0, len(mine), self.batch_size)]
        for k in range(self.draws):
            for p in parts:
                yield k, p, assemble(self.data, p, REWARD_SEED, k, timestep, 0.0)


@torch.no_grad()
def held_out_errors(
    held_out: HeldOut, backbone: Backbone, errors: Callable[[Batch], torch.Tensor], device: torch.device
) -> torch.Tensor:
    """Compute a model's errors on held-out pairs; pairs of other ranks stay zero.

    Args:
        errors: the model's [2, B] float32 on a batch.

    Returns:
        [2, draws, pairs] float32 on device, row 0 winners, row 1 losers.
    """
    found = torch.zeros(2, held_out.draws, held_out.pairs, device=device)
    for draw, positions, batch in held_out.batches(backbone.timestep):
        found[:, draw, torch.from_numpy(positions).to(device)] = errors(batch.to(device))
    return found
