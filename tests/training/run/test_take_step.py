"""One step of the loop by hand, on a network of one weight: the mean over the global batch, the cut, the rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from training.data.loader import Share
from training.method.batch import Batch
from training.method.objective_config import ObjectiveConfig
from training.method.optimizer_config import OptimizerConfig
from training.run import loop
from training.run.assembly import Rank
from training.settings.config import DataConfig, TrainConfig


class Weight(torch.nn.Module):
    """A network that multiplies by its one weight, 3 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, noisy: torch.Tensor) -> torch.Tensor:
        return self.weight * noisy


class Plain:
    """A backbone without noise, whose target is 0: an image's error is the mean square of what the network says."""

    timesteps = 1000

    def add_noise(self, latents: torch.Tensor, _noise: torch.Tensor, _timesteps: torch.Tensor) -> torch.Tensor:
        return latents

    def target(self, latents: torch.Tensor, _noise: torch.Tensor, _timesteps: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(latents)

    def predict(
        self, network: torch.nn.Module, noisy: torch.Tensor, _: torch.Tensor, __: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        return network(noisy)


def micro_batch(*winners: float) -> Batch:
    """Make a micro-batch of pairs whose winners have these latents, and whose losers have 100."""
    count = len(winners)
    latents = torch.stack([torch.tensor(winners), torch.full((count,), 100.0)]).view(2, count, 1, 1, 1)
    return Batch(
        pair_ids=np.arange(count),
        latents=latents,
        noise=torch.zeros(count, 1, 1, 1),
        timesteps=torch.zeros(count, dtype=torch.int64),
        conditioning={},
        preferred=torch.ones(count),
    )


def stepped(monkeypatch: pytest.MonkeyPatch, cuts: list[list[float]], limit: float) -> tuple[float, dict[str, Any]]:
    """Take the first step of a run of sft, by plain descent; returns the weight after it, and the step's note."""
    network = Weight()
    batches = [micro_batch(*winners) for winners in cuts]
    pieces = [range(len(winners)) for winners in cuts]
    monkeypatch.setattr(loop, "pieces_of_step", lambda *_: pieces)
    config = TrainConfig(
        objective=ObjectiveConfig(objective="sft"),
        optimizer=OptimizerConfig(learning_rate=0.1, warmup_steps=2, max_gradient_norm=limit),
        data=DataConfig(global_batch=4, micro_batch=2),
    )
    trainer: Any = SimpleNamespace(
        config=config,
        backbone=Plain(),
        reference=None,
        policy=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=99.0),
        average=None,
        data=None,
        rank=Rank(),
    )
    record = loop.take_step(trainer, network, batches, step=0)
    return network.weight.item(), record.values


@pytest.mark.parametrize("cuts", [[[1.0, 2.0, 1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]], [[1.0], [2.0, 1.0], [2.0]]])
def test_a_step_descends_by_the_mean_over_the_global_batch(
    monkeypatch: pytest.MonkeyPatch, cuts: list[list[float]]
) -> None:
    # Losses w^2 l^2: 9 and 36, mean 22.5; slope 2 w l^2: 6 and 24, mean 15. The first of two warm-up steps has half
    # the rate.
    weight, note = stepped(monkeypatch, cuts, math.inf)
    assert weight == pytest.approx(3 - 0.05 * 15)
    assert (note["step"], note["loss"], note["gradient_norm"], note["learning_rate"]) == (1, 22.5, 15.0, 0.05)
    assert (note["beta"], note["accuracy"], note["margin"]) == (None, None, None)  # sft compares with no reference


def test_a_gradient_is_cut_to_its_limit_and_noted_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, note = stepped(monkeypatch, [[1.0, 2.0, 1.0, 2.0]], 2.0)
    assert weight == pytest.approx(3 - 0.05 * 2.0, abs=1e-6)
    assert note["gradient_norm"] == 15.0
    short, _ = stepped(monkeypatch, [[1.0, 2.0, 1.0, 2.0]], 20.0)
    assert short == pytest.approx(3 - 0.05 * 15)  # shorter ones stay as they are


def test_a_rank_reads_its_share_by_the_runs_seed_and_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def begin_step(*given: Any) -> Callable[[], list[Batch]]:
        asked.append(given)
        return list

    monkeypatch.setattr(loop, "begin_step", begin_step)
    trainer: Any = SimpleNamespace(
        config=TrainConfig(seed=5, data=DataConfig(global_batch=4, micro_batch=2, caption_dropout=0.35)),
        backbone=SimpleNamespace(timestep="the map"),
        data="the pairs",
        rank=Rank(rank=1, world_size=2),
    )
    assert loop.step_share(trainer, 8) == []
    share = Share(global_batch=4, micro_batch=2, rank=1, world_size=2)
    assert asked == [("the pairs", 8, share, 5, "the map", 0.35)]
