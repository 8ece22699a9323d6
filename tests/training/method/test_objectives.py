"""The objectives on hand-worked numbers; equations are those of arXiv 2311.12908."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import pytest
import torch

from training.method import objectives
from training.method.objective_config import Objective, ObjectiveConfig

# One pair. Policy: winner 0.10, loser 0.16. Reference: winner 0.12, loser 0.15.
# margin = (0.10 - 0.16) - (0.12 - 0.15) = -0.06 + 0.03 = -0.03; at beta 200 the logit is -100 * -0.03 = 3.
POLICY = torch.tensor([[0.10], [0.16]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.12], [0.15]], dtype=torch.float64)


def test_margin_and_logit_by_hand() -> None:
    margin = objectives.margins(POLICY, REFERENCE)
    assert margin.item() == pytest.approx(-0.03, abs=1e-9)
    assert objectives.logits(margin, 200.0).item() == pytest.approx(3.0, abs=1e-9)


def test_dpo_loss_by_hand() -> None:
    loss = objectives.loss(ObjectiveConfig(objective="dpo", beta=200.0), POLICY, REFERENCE)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-3.0)), abs=1e-9)  # -log sigma(3) = 0.048587...


def by_hand(loss: torch.Tensor, expected: float) -> bool:
    return loss.item() == pytest.approx(expected, abs=1e-9)


def test_conservative_loss_by_hand() -> None:
    # 0.9 * -log sigma(3) + 0.1 * -log sigma(-3) = 0.9 * 0.048587 + 0.1 * 3.048587 = 0.348587
    loss = objectives.loss(
        ObjectiveConfig(objective="conservative", beta=200.0, label_smoothing=0.1), POLICY, REFERENCE
    )
    assert by_hand(loss, 0.9 * math.log(1 + math.exp(-3.0)) + 0.1 * math.log(1 + math.exp(3.0)))
    without = objectives.loss(
        ObjectiveConfig(objective="conservative", beta=200.0, label_smoothing=0.0), POLICY, REFERENCE
    )
    assert torch.equal(without, objectives.loss(ObjectiveConfig(objective="dpo", beta=200.0), POLICY, REFERENCE))


def test_soft_loss_by_hand() -> None:
    soft, three_quarters = ObjectiveConfig(objective="soft", beta=200.0), torch.tensor([0.75], dtype=torch.float64)
    expected = 0.75 * math.log(1 + math.exp(-3.0)) + 0.25 * math.log(1 + math.exp(3.0))
    assert by_hand(objectives.loss(soft, POLICY, REFERENCE, three_quarters), expected)
    # The slots swapped and the probability with them: the same loss.
    assert by_hand(objectives.loss(soft, POLICY.flip(0), REFERENCE.flip(0), 1 - three_quarters), expected)
    dpo = objectives.loss(ObjectiveConfig(objective="dpo", beta=200.0), POLICY, REFERENCE)
    assert torch.equal(objectives.loss(soft, POLICY, REFERENCE, torch.ones(1, dtype=torch.float64)), dpo)


def test_soft_loss_is_least_where_the_logit_is_the_labels_own() -> None:
    p = torch.sigmoid(torch.tensor([3.0], dtype=torch.float64))  # log odds 3, which is this pair's logit
    policy = POLICY.clone().requires_grad_()
    objectives.loss(ObjectiveConfig(objective="soft", beta=200.0), policy, REFERENCE, p).sum().backward()
    assert policy.grad is not None
    assert policy.grad.abs().max().item() < 1e-9


def test_ipo_loss_by_hand() -> None:
    assert by_hand(
        objectives.loss(ObjectiveConfig(objective="ipo", beta=200.0), POLICY, REFERENCE), 6.25
    )  # (3 - 1/2)^2


@pytest.mark.parametrize(
    ("beta", "expected", "slope"),
    # At beta 2 the margin -1 gives u = 1, where the hinge is closed; half of it gives u = 1/2, slope beta/2.
    [(4.0, 0.0, 0.0), (2.0, 0.0, 0.0), (1.0, 0.5, 0.5)],
)
def test_hinge_loss_by_hand(beta: float, expected: float, slope: float) -> None:
    policy = torch.tensor([[0.0], [1.0]], dtype=torch.float64, requires_grad=True)
    loss = objectives.loss(
        ObjectiveConfig(objective="hinge", beta=beta), policy, torch.zeros(2, 1, dtype=torch.float64)
    )
    assert loss.item() == expected
    loss.sum().backward()
    assert policy.grad is not None
    assert policy.grad.flatten().tolist() == [slope, -slope]


def test_dmpo_loss_by_hand() -> None:
    # p = sigma(3) = 0.952574. KL of Bernoulli(p) to Bernoulli(0.99): 0.952574 log(0.952574 / 0.99)
    # + 0.047426 log(0.047426 / 0.01) = -0.036709 + 0.073823 = 0.037114
    config = ObjectiveConfig(objective="dmpo", beta=200.0, dmpo_alpha=0.01)
    p = 1 / (1 + math.exp(-3.0))
    expected = p * math.log(p / 0.99) + (1 - p) * math.log((1 - p) / 0.01)
    assert expected == pytest.approx(0.037114, abs=2e-6)
    assert by_hand(objectives.loss(config, POLICY, REFERENCE), expected)
    # At u = log(0.99 / 0.01) both distributions are the same; for logits far out nothing overflows.
    least = torch.tensor([math.log(99.0), 1e4, -1e4], dtype=torch.float64)
    ends = [0.0, -math.log(0.99), -math.log(0.01)]
    assert objectives.bernoulli_divergence(least, 0.01).tolist() == pytest.approx(ends, abs=1e-9)


def test_dmpos_gradient_by_hand() -> None:
    # dKL/du = p (1-p) (u - log 99); du/de_w = -100 at beta 200.
    policy = POLICY.clone().requires_grad_()
    objectives.loss(ObjectiveConfig(objective="dmpo", beta=200.0), policy, REFERENCE).sum().backward()
    p = 1 / (1 + math.exp(-3.0))
    slope = -100 * p * (1 - p) * (3.0 - math.log(99.0))
    assert policy.grad is not None
    assert policy.grad.flatten().tolist() == pytest.approx([slope, -slope], abs=1e-9)


def test_the_sft_weight_adds_the_winners_error() -> None:
    # -log sigma(3) + 20 * 0.10
    config = ObjectiveConfig(objective="dpo", beta=200.0, sft_weight=20.0)
    policy = POLICY.clone().requires_grad_()
    loss = objectives.loss(config, policy, REFERENCE)
    assert by_hand(loss, math.log(1 + math.exp(-3.0)) + 2.0)
    loss.sum().backward()
    assert policy.grad is not None
    push = 100 / (1 + math.exp(3.0))
    assert policy.grad.flatten().tolist() == pytest.approx([push + 20.0, -push], abs=1e-9)


def test_kto_loss_by_hand() -> None:
    # Rewards 2 and -1 (see below), z = 1/4: winner 1 - sigma(1.75), loser 1 - sigma(-(-1.25)); the mean of the two.
    loss = objectives.loss(ObjectiveConfig(objective="kto", beta=200.0), POLICY, REFERENCE, 1.0, torch.tensor(0.25))
    assert by_hand(loss, 0.5 * (1 / (1 + math.exp(1.75)) + 1 / (1 + math.exp(1.25))))
    assert by_hand(objectives.loss(ObjectiveConfig(objective="kto", beta=200.0), REFERENCE, REFERENCE), 0.5)


def test_kto_baseline_is_not_below_0_and_has_no_gradient() -> None:
    assert objectives.kto_baseline([torch.tensor(-0.5)]).item() == 0.0
    z = objectives.kto_baseline([torch.tensor(0.5, requires_grad=True)])
    assert z.item() == 0.5
    assert not z.requires_grad


def test_mapo_loss_by_hand() -> None:
    # phi(0.10) = 0.05 / (e^0.05 - 1) = 0.975208, phi(0.16) = 0.08 / (e^0.08 - 1) = 0.960533; 10 times the gap: 0.14675.
    config = ObjectiveConfig(objective="mapo", mapo_t=10.0)
    winner, loser = (0.5 * e / (math.exp(0.5 * e) - 1) for e in (0.10, 0.16))
    assert (winner, loser) == pytest.approx((0.975208, 0.960533), abs=1e-6)
    expected = 0.10 + 0.1 * math.log(1 + math.exp(-10 * (winner - loser)))
    assert by_hand(objectives.loss(config, POLICY, None), expected)
    assert not config.needs_reference


def test_flags_that_are_not_the_defaults_reach_their_formulas() -> None:
    p = 1 / (1 + math.exp(-3.0))
    dmpo = objectives.loss(ObjectiveConfig(objective="dmpo", beta=200.0, dmpo_alpha=0.2), POLICY, REFERENCE)
    assert by_hand(dmpo, p * math.log(p / 0.8) + (1 - p) * math.log((1 - p) / 0.2))
    mapo = objectives.loss(ObjectiveConfig(objective="mapo", mapo_k=2.0, mapo_b=0.3, mapo_t=10.0), POLICY, None)
    winner, loser = (2.0 * e / (math.exp(2.0 * e) - 1) for e in (0.10, 0.16))
    assert by_hand(mapo, 0.10 + 0.3 * math.log(1 + math.exp(-10 * (winner - loser))))
    smoothed = ObjectiveConfig(objective="conservative", beta=200.0, label_smoothing=0.4)
    expected = 0.6 * math.log(1 + math.exp(-3.0)) + 0.4 * math.log(1 + math.exp(3.0))
    assert by_hand(objectives.loss(smoothed, POLICY, REFERENCE), expected)
    capped = weights(ObjectiveConfig(weighting="min-snr", snr_gamma=1.0), SNR, torch.ones_like(SNR))
    assert capped == pytest.approx([1.0, 0.5, 0.05], abs=1e-9)  # min(SNR, 1) / SNR


def test_mapo_scores_are_finite_and_smooth_at_error_0() -> None:
    edge = objectives.NEAR_ZERO / 0.5  # where the series takes over
    errors = torch.tensor([0.0, edge * (1 - 1e-9), edge, 1e6], dtype=torch.float64, requires_grad=True)
    scores = objectives.mapo_scores(errors, 0.5)
    x = objectives.NEAR_ZERO
    assert scores.tolist() == pytest.approx([1.0, x / math.expm1(x), x / math.expm1(x), 0.0], abs=1e-9)
    scores.sum().backward()
    assert errors.grad is not None
    # phi'(e) = k (-1/2 + x/6 - ...): -k/2 at 0
    slope = 0.5 * (-0.5 + x / 6 - x**3 / 180)
    assert errors.grad.tolist() == pytest.approx([-0.25, slope, slope, 0.0], abs=1e-7)


@pytest.mark.parametrize("objective", get_args(Objective))
def test_every_objective_starts_by_pushing_the_winner_down_and_the_loser_up(objective: Objective) -> None:
    policy = REFERENCE.clone().requires_grad_()
    preferred = torch.tensor([0.75], dtype=torch.float64)
    objectives.loss(ObjectiveConfig(objective=objective, beta=200.0), policy, REFERENCE, preferred).sum().backward()
    assert policy.grad is not None
    winner, loser = policy.grad.flatten().tolist()
    assert winner > 0
    assert loser < 0 or objective == "sft"  # which does not look at it


def test_past_its_target_ipo_pulls_back() -> None:
    policy = POLICY.clone().requires_grad_()
    objectives.loss(ObjectiveConfig(objective="ipo", beta=200.0), policy, REFERENCE).sum().backward()
    assert policy.grad is not None
    # 2 (u - 1/2) du/de_w = 2 * 2.5 * -100
    assert policy.grad.flatten().tolist() == pytest.approx([-500.0, 500.0], abs=1e-9)


@dataclass
class Levels:
    """A schedule of a few timesteps, by its two functions of them."""

    snr: torch.Tensor
    factor: torch.Tensor

    def signal_to_noise(self, timesteps: torch.Tensor) -> torch.Tensor:
        return self.snr[timesteps]

    def epsilon_factor(self, timesteps: torch.Tensor) -> torch.Tensor:
        return self.factor[timesteps]


SNR = torch.tensor([0.0, 2.0, 20.0], dtype=torch.float64)
ALPHA_2 = SNR / (SNR + 1)  # what turns an error of velocity into one of the noise


def weights(config: ObjectiveConfig, snr: torch.Tensor, factor: torch.Tensor) -> list[float]:
    return objectives.weights(config, Levels(snr, factor), torch.arange(len(snr))).tolist()


def test_constant_weights() -> None:
    assert weights(ObjectiveConfig(), SNR, ALPHA_2) == [1.0, 1.0, 1.0]
    assert weights(ObjectiveConfig(error="eps"), SNR, ALPHA_2) == ALPHA_2.tolist()


def test_min_snr_weights_by_hand() -> None:
    config = ObjectiveConfig(weighting="min-snr", snr_gamma=5.0)
    noise = weights(config, SNR, torch.ones_like(SNR))
    assert noise == pytest.approx([1.0, 1.0, 0.25], abs=1e-9)  # min(SNR, 5) / SNR, 1 at 0
    velocity = weights(config, SNR, ALPHA_2)
    assert velocity == pytest.approx([0.0, 2 / 3, 5 / 21], abs=1e-9)  # min(SNR, 5) / (SNR + 1)
    s = torch.tensor([1.0, 0.5, 0.2, 0.0], dtype=torch.float64)  # flow: SNR (1-s)^2/s^2 = 0, 1, 16, infinite
    flow = weights(config, ((1 - s) / s).square(), (1 - s).square())
    assert flow == pytest.approx([0.0, 0.25, 0.2, 0.0], abs=1e-9)  # min(SNR, 5) s^2


def test_weights_stand_inside_sigma() -> None:
    weight = torch.tensor([0.25], dtype=torch.float64)
    loss = objectives.loss(ObjectiveConfig(objective="dpo", beta=200.0), POLICY * weight, REFERENCE * weight)
    assert by_hand(loss, math.log(1 + math.exp(-0.75)))  # u_t = 0.25 * 3


def test_policy_equal_to_reference_gives_ln_2() -> None:
    loss = objectives.loss(ObjectiveConfig(objective="dpo", beta=5000.0), REFERENCE, REFERENCE)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-9)


def test_swapping_winner_and_loser_negates_the_logit() -> None:
    there = objectives.logits(objectives.margins(POLICY, REFERENCE), 200.0)
    back = objectives.logits(objectives.margins(POLICY.flip(0), REFERENCE.flip(0)), 200.0)
    assert torch.equal(there, -back)


def test_conventions_convert_into_each_other() -> None:
    # N = 4 * 8 * 8 values per latent; sums are N times the means. Each line is a source's own formula and constant.
    count, beta = 4 * 8 * 8, 5000.0
    ours = objectives.logits(objectives.margins(POLICY, REFERENCE), beta).item()
    sums_policy, sums_reference = POLICY * count, REFERENCE * count
    summed = ((sums_policy[0] - sums_policy[1]) - (sums_reference[0] - sums_reference[1])).item()
    meant = ((POLICY[0] - POLICY[1]) - (REFERENCE[0] - REFERENCE[1])).item()
    assert -0.5 * 19.53125 * summed == pytest.approx(ours, abs=1e-9)  # Eq. 46, sums and the half: 5000/256
    assert -9.765625 * summed == pytest.approx(ours, abs=1e-9)  # pseudo-code S9, sums and no half: 5000/512
    assert -2500 * meant == pytest.approx(ours, abs=1e-9)  # diffusers' SD1.5 script, means and no half


def test_sft_is_the_winners_error_and_needs_no_reference() -> None:
    config = ObjectiveConfig(objective="sft")
    assert objectives.loss(config, POLICY, None).tolist() == [0.10]
    assert not config.needs_reference


def test_gradient_pushes_the_winner_down_and_the_loser_up() -> None:
    policy = POLICY.clone().requires_grad_()
    objectives.loss(ObjectiveConfig(objective="dpo", beta=200.0), policy, REFERENCE).sum().backward()
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
