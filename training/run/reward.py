"""Held-out implicit accuracy: does the policy, as a reward model, prefer what was preferred? (Sec. 5.5, S4.1.)"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from training.backbones.backbone import Backbone
from training.data.applied_labels import Labelled
from training.data.loader import TimestepMap, assemble
from training.method.batch import Batch
from training.method.draws import REWARD_SEED


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Held-out pairs, each seen at several fixed draws, one rank's share of them.

    Repeat k of a pair is its draw of epoch k under REWARD_SEED.
    """

    data: Labelled
    repeats: int  # how often each pair is seen
    pairs: int  # the first so many of data, over all ranks
    batch_size: int  # pairs in a forward pass
    rank: int
    world_size: int

    def batches(self, timestep: TimestepMap) -> Iterator[tuple[int, npt.NDArray[np.int64], Batch]]:
        """Yield this rank's batches of one shape, with repeat and positions of the pairs; no caption is dropped."""
        mine = np.arange(self.pairs)[self.rank :: self.world_size]
        buckets = self.data.buckets(mine)
        shaped = [mine] if buckets is None else [mine[buckets == one] for one in np.unique(buckets)]
        parts = [
            places[start : start + self.batch_size]
            for places in shaped
            for start in range(0, len(places), self.batch_size)
        ]
        for repeat in range(self.repeats):
            for positions in parts:
                yield repeat, positions, assemble(self.data, positions, REWARD_SEED, repeat, timestep, dropout=0.0)


@torch.no_grad()
def held_out_errors(
    held_out: HeldOut, backbone: Backbone, errors: Callable[[Batch], torch.Tensor], device: torch.device
) -> torch.Tensor:
    """Compute a model's errors on held-out pairs; pairs of other ranks stay zero.

    Args:
        errors: computes the model's errors [2, B] float32 on a batch.

    Returns:
        [2, repeats, pairs] float32 on device, row 0 winners, row 1 losers.
    """
    of_all = torch.zeros(2, held_out.repeats, held_out.pairs, device=device)
    for repeat, positions, batch in held_out.batches(backbone.timestep):
        of_all[:, repeat, torch.from_numpy(positions).to(device)] = errors(batch.to(device))
    return of_all
