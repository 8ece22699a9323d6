"""The automatic beta by hand, whatever the order of its margins and the ranks that they come from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from training.method import stability, step_losses
from training.method.objective_config import ObjectiveConfig
from training.method.step_losses import StepValues


def test_auto_beta_by_hand() -> None:
    # Margins -0.02: u = 0.01 beta, and sigma(-u) = 1/4 at u = log 3.
    margins = np.array([-0.02, -0.02])
    assert stability.auto_beta(margins, 0.25, 5000.0) == pytest.approx(100 * math.log(3.0), rel=1e-9)
    assert stability.auto_beta(margins, 0.25, 50.0) == 50.0  # sigma(-1/2) = 0.38 is more than a quarter
    assert stability.auto_beta(np.zeros(2), 0.25, 5000.0) == 5000.0  # a half at any beta
    # Three of four right: the mean is 1/4 + sigma(-u)/2, so 3/8 again at u = log 3, and never below 1/4.
    mixed = np.array([-0.02, 0.02, -0.02, -0.02])
    assert stability.auto_beta(mixed, 0.375, 5000.0) == pytest.approx(100 * math.log(3.0), rel=1e-9)
    assert stability.auto_beta(mixed, 0.25, 5000.0) == 5000.0


def test_auto_beta_knows_neither_order_nor_ranks() -> None:
    margins = np.random.default_rng(0).normal(-0.05, 0.02, 64)
    found = stability.auto_beta(margins, 0.25, 5000.0)
    assert found < 5000.0
    padded = np.append(margins[::-1], [np.nan, np.nan])  # of ranks with a pair fewer
    assert stability.auto_beta(padded, 0.25, 5000.0) == found
    for seed in range(4):  # in most other orders a plain sum has other last bits
        mixed = np.random.default_rng(seed).permutation(margins)
        assert stability.auto_beta(mixed, 0.25, 5000.0) == found


def test_target_and_limit_are_those_of_the_flags() -> None:
    # Margins -0.02: sigma(-u) = 3/8 at u = log(5/3), where beta is 100 log(5/3) = 51.
    policy = torch.tensor([[0.10, 0.20], [0.15, 0.25]], dtype=torch.float64)
    reference = torch.tensor([[0.12, 0.22], [0.15, 0.25]], dtype=torch.float64)
    config = ObjectiveConfig(beta="auto", beta_target=0.375, beta_most=80.0)
    assert step_losses.step_values(config, [policy], [reference]).beta == pytest.approx(100 * math.log(5 / 3), rel=1e-9)
    lower = ObjectiveConfig(beta="auto", beta_target=0.375, beta_most=50.0)
    assert step_losses.step_values(lower, [policy], [reference]) == StepValues(50.0)


def test_auto_beta_of_no_finite_margin_is_the_limit() -> None:
    # Such a step's loss is refused as not finite, by the pairs' names; the search for beta must not fail before.
    assert stability.auto_beta(np.array([np.nan, np.inf]), 0.25, 5000.0) == 5000.0


def test_values_of_all_ranks_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    other = torch.tensor([3.0, 4.0, 5.0])  # of a rank with a pair more

    def all_reduce(longest: torch.Tensor, op: object) -> None:
        assert op == torch.distributed.ReduceOp.MAX
        longest.clamp_(min=len(other))

    def all_gather(parts: list[torch.Tensor], padded: torch.Tensor) -> None:
        for part, values in zip(parts, (padded, other), strict=True):
            part.copy_(values)

    monkeypatch.setattr(stability.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(stability.dist, "all_gather", all_gather)
    gathered = stability.of_all_ranks(torch.tensor([1.0, 2.0]), 2).numpy()
    assert np.array_equal(gathered, [1.0, 2.0, np.nan, 3.0, 4.0, 5.0], equal_nan=True)


def test_a_number_as_beta_stays_what_it_is() -> None:
    assert step_losses.step_values(ObjectiveConfig(beta=7.0), [], []) == StepValues(7.0)
    assert ObjectiveConfig(beta=7.0).with_beta(9.0).beta == 7.0
    assert ObjectiveConfig(beta="auto").with_beta(9.0).known_beta == 9.0
