"""Weights, soft labels and the baseline between errors and losses."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.material import MODEL

from training.backbones.backbone import StableDiffusion
from training.method.batch import Batch
from training.method.objectives import ObjectiveConfig
from training.run import losses

# Two pairs, columns; winners in row 0. At beta 200 the logits are 3 and -1, the rewards (2, -1) and (-2, -1).
POLICY = torch.tensor([[0.10, 0.14], [0.16, 0.16]])
REFERENCE = torch.tensor([[0.12, 0.12], [0.15, 0.15]])


def trainer(config: ObjectiveConfig) -> Any:
    """Hold what losses ask of a trainer: SD1.5's schedule, one rank."""
    settings = SimpleNamespace(objective=config)
    return SimpleNamespace(config=settings, backbone=StableDiffusion(MODEL), rank=SimpleNamespace(world_size=1))


def batch(preferred: tuple[float, float] = (1.0, 1.0), timesteps: tuple[int, int] = (0, 999)) -> Batch:
    nothing = torch.zeros(2, 2, 1, 1, 1)
    return Batch(np.arange(2), nothing, nothing[0], torch.tensor(timesteps), {}, torch.tensor(preferred))


def test_each_pair_has_its_own_probability() -> None:
    found = losses.batch_losses(trainer(ObjectiveConfig("soft", 200.0)), batch((1.0, 0.75)), POLICY, REFERENCE, None)
    second = 0.75 * math.log(1 + math.exp(1.0)) + 0.25 * math.log(1 + math.exp(-1.0))
    assert found.tolist() == pytest.approx([math.log(1 + math.exp(-3.0)), second], abs=1e-5)


def test_each_pair_has_the_weight_of_its_timestep() -> None:
    config = ObjectiveConfig("dpo", 200.0, weighting="min-snr")
    found = losses.batch_losses(trainer(config), batch(), POLICY, REFERENCE, None)
    # SD1.5: alpha^2 is 1 - 0.00085 at t = 0, so SNR 1175.5 and the weight 5/1175.5; at t = 999 the SNR is below 5.
    weight = 5 / ((1 - 0.00085) / 0.00085)
    expected = [math.log(1 + math.exp(-3.0 * weight)), math.log(1 + math.exp(1.0))]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    alone = losses.batch_losses(trainer(ObjectiveConfig("sft", weighting="min-snr")), batch(), POLICY, None, None)
    assert alone.tolist() == pytest.approx([0.10 * weight, 0.14], abs=1e-5)


def test_the_only_micro_batch_is_ktos_own_baseline() -> None:
    config, less_bad = trainer(ObjectiveConfig("kto", 200.0)), REFERENCE + 0.02  # all rewards are 2 higher
    found = losses.batch_losses(config, batch(), POLICY, less_bad, None)
    # Rewards 4, 0 and 1, 1 (winner, loser: 4 and 1; 0 and 1), mean 1.5.
    gains = [(4 - 1.5, 1 - 1.5), (0 - 1.5, 1 - 1.5)]
    expected = [0.5 * (1 / (1 + math.exp(w)) + 1 / (1 + math.exp(-lost))) for w, lost in gains]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_baseline_is_the_mean_over_micro_batches_and_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = torch.tensor([[2.0], [-1.0]]), torch.tensor([[4.0], [3.0]])
    assert losses.global_baseline([first, second], 1).item() == 2.0  # (2 - 1 + 4 + 3) / 4
    assert losses.global_baseline([-first, -second], 1).item() == 0.0
    monkeypatch.setattr(
        losses.dist, "all_reduce", lambda total: total.add_(torch.tensor([-6.0, 4.0]))
    )  # of another rank
    assert losses.global_baseline([first, second], 2).item() == 0.25  # (8 - 6) / 8


def test_a_reward_that_is_not_finite_does_not_spoil_the_others() -> None:
    spoilt = torch.tensor([[2.0, float("nan")], [4.0, float("inf")]])
    assert losses.global_baseline([spoilt], 1).item() == 1.5
