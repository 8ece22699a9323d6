"""The objectives on hand-worked numbers; equations are those of arXiv 2311.12908."""

from __future__ import annotations

import math

import pytest
import torch

from training import objectives
from training.objectives import ObjectiveConfig

# One pair. Policy: winner 0.10, loser 0.16. Reference: winner 0.12, loser 0.15.
# margin = (0.10 - 0.16) - (0.12 - 0.15) = -0.06 + 0.03 = -0.03; at beta 200 the logit is -100 * -0.03 = 3.
POLICY = torch.tensor([[0.10], [0.16]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.12], [0.15]], dtype=torch.float64)


def test_errors_are_means_over_channels_and_pixels() -> None:
    prediction = torch.tensor([[[[1.0, 2.0]], [[3.0, 5.0]]]])  # [1, 2, 1, 2]
    target = torch.tensor([[[[1.0, 1.0]], [[1.0, 1.0]]]])
    assert objectives.errors(prediction, target).tolist() == [(0 + 1 + 4 + 16) / 4]


def test_errors_of_half_precision_predictions_are_float32() -> None:
    prediction, target = torch.full((1, 1, 1, 3), 0.1, dtype=torch.bfloat16), torch.zeros(1, 1, 1, 3)
    error = objectives.errors(prediction, target)
    assert error.dtype == torch.float32
    assert error.item() == pytest.approx(float(torch.tensor(0.1, dtype=torch.bfloat16)) ** 2, rel=1e-6)


def test_margin_and_logit_by_hand() -> None:
    margin = objectives.margins(POLICY, REFERENCE)
    assert margin.item() == pytest.approx(-0.03, abs=1e-9)
    assert objectives.logits(margin, 200.0).item() == pytest.approx(3.0, abs=1e-9)


def test_dpo_loss_by_hand() -> None:
    loss = objectives.loss(ObjectiveConfig("dpo", 200.0), POLICY, REFERENCE)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-3.0)), abs=1e-9)  # -log sigma(3) = 0.048587...


def test_policy_equal_to_reference_gives_ln_2() -> None:
    loss = objectives.loss(ObjectiveConfig("dpo", 5000.0), REFERENCE, REFERENCE)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-9)


def test_swapping_winner_and_loser_negates_the_logit() -> None:
    there = objectives.logits(objectives.margins(POLICY, REFERENCE), 200.0)
    back = objectives.logits(objectives.margins(POLICY.flip(0), REFERENCE.flip(0)), 200.0)
    assert torch.equal(there, -back)


def test_conventions_convert_into_each_other() -> None:
    # N = 4 * 8 * 8 values per latent; sums are N times the means.
    count, beta = 4 * 8 * 8, 5000.0
    ours = objectives.logits(objectives.margins(POLICY, REFERENCE), beta).item()
    sums_policy, sums_reference = POLICY * count, REFERENCE * count
    summed = ((sums_policy[0] - sums_policy[1]) - (sums_reference[0] - sums_reference[1])).item()
    meant = ((POLICY[0] - POLICY[1]) - (REFERENCE[0] - REFERENCE[1])).item()
    assert -(beta / count) / 2 * summed == pytest.approx(ours, abs=1e-9)  # Eq. 46: beta/N, with the half
    assert -(beta / (2 * count)) * summed == pytest.approx(ours, abs=1e-9)  # pseudo-code S9: beta/(2N), no half
    assert -(beta / 2) * meant == pytest.approx(ours, abs=1e-9)  # diffusers: 2500, mean, no half


def test_sft_is_the_winners_error_and_needs_no_reference() -> None:
    config = ObjectiveConfig("sft")
    assert objectives.loss(config, POLICY, None).tolist() == [0.10]
    assert not config.needs_reference


def test_gradient_pushes_the_winner_down_and_the_loser_up() -> None:
    policy = POLICY.clone().requires_grad_()
    objectives.loss(ObjectiveConfig("dpo", 200.0), policy, REFERENCE).sum().backward()
    # d loss / d e_w = sigma(-u) * beta/2 = sigma(-3) * 100 = 4.7426; the loser's is its negative.
    expected = 100 / (1 + math.exp(3.0))
    assert policy.grad is not None
    assert policy.grad.flatten().tolist() == pytest.approx([expected, -expected], abs=1e-9)


def test_reward_is_higher_where_the_policy_denoises_better() -> None:
    rewards = objectives.rewards(POLICY, REFERENCE, 200.0)
    # winner: -100 * (0.10 - 0.12) = 2; loser: -100 * (0.16 - 0.15) = -1; their difference is the logit, 3.
    assert rewards.flatten().tolist() == pytest.approx([2.0, -1.0], abs=1e-9)


def test_implicit_accuracy_counts_ties_a_half() -> None:
    assert objectives.implicit_accuracy(torch.tensor([-0.1, 0.0, 0.1])).tolist() == [1.0, 0.5, 0.0]
