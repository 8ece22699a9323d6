"""The safeguard by hand; and that no cut of a batch and no share of it changes it or the automatic beta."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from training.method import forward, objectives, stability, step_losses
from training.method.batch import Batch
from training.method.forward import NetworkReference, PairLosses
from training.method.objective_config import ObjectiveConfig
from training.method.step_losses import StepValues

# The pair of test_objectives.py: at beta 200 its logit is 3.
POLICY = torch.tensor([[0.10], [0.16]], dtype=torch.float64)
REFERENCE = torch.tensor([[0.12], [0.15]], dtype=torch.float64)
OVERLAP = torch.tensor([0.08], dtype=torch.float64)


def test_errors_and_overlaps_of_residuals_by_hand() -> None:
    # Winner (2, 1), loser (1, 3): errors (4 + 1) / 2 and (1 + 9) / 2, overlap (2 + 3) / 2.
    residuals = torch.tensor([[2.0, 1.0], [1.0, 3.0]]).view(2, 2, 1, 1)
    assert forward.mean_squares(residuals).tolist() == [2.5, 5.0]
    assert forward.overlap(residuals).tolist() == [2.5]


def test_scales_of_losers_by_hand() -> None:
    # (1 - 0.6) e_w / overlap: 0.4 * 2.5 / 2.5; then an overlap below 0; then 0.4 * 4 / 1, which is above 1; then none.
    winner_errors = torch.tensor([2.5, 1.0, 4.0, 1.0], dtype=torch.float64)
    overlaps = torch.tensor([2.5, -0.5, 1.0, 0.0], dtype=torch.float64)
    scales = stability.loser_scales(winner_errors, overlaps, 0.6)
    assert scales.tolist() == pytest.approx([0.4, 1.0, 1.0, 1.0], abs=1e-9)
    assert stability.loser_scales(winner_errors, overlaps, 1.0).tolist() == [0.0, 1.0, 0.0, 1.0]


def guarded_gradient(config: ObjectiveConfig) -> list[float]:
    policy = POLICY.clone().requires_grad_()
    errors = step_losses.guarded(config, policy, REFERENCE, OVERLAP, 1.0)
    loss = objectives.loss(config, errors, REFERENCE)
    assert torch.equal(loss, objectives.loss(config, POLICY, REFERENCE))  # the value is that without a safeguard
    loss.sum().backward()
    assert policy.grad is not None
    return policy.grad.flatten().tolist()


def test_the_safeguard_scales_the_losers_gradient_alone() -> None:
    # lambda = 0.4 * 0.10 / 0.08 = 0.5; dpo's push is 100 sigma(-3).
    push = 100 / (1 + math.exp(3.0))
    config = ObjectiveConfig(objective="dpo", beta=200.0, safeguard=0.6)
    assert guarded_gradient(config) == pytest.approx([push, -0.5 * push], abs=1e-9)


def test_the_safeguard_leaves_a_pair_alone_that_pulls_back() -> None:
    # ipo turns at a logit of 1/2, conservative at log(0.9 / 0.1) = 2.2, both below 3; dmpo at log 99 = 4.6.
    for name in ("ipo", "conservative"):
        winner, loser = guarded_gradient(ObjectiveConfig(objective=name, beta=200.0, safeguard=0.6))  # type: ignore[arg-type]
        assert winner < 0
        assert loser == pytest.approx(-winner, abs=1e-9)
    winner, loser = guarded_gradient(ObjectiveConfig(objective="dmpo", beta=200.0, safeguard=0.6))
    assert winner > 0
    assert loser == pytest.approx(-0.5 * winner, abs=1e-9)


@pytest.mark.parametrize(
    ("objective", "turned_at"),
    [
        (ObjectiveConfig(objective="ipo"), 0.5),
        (ObjectiveConfig(objective="dmpo", dmpo_alpha=0.2), math.log(4.0)),  # log(0.8 / 0.2)
        (ObjectiveConfig(objective="conservative", label_smoothing=0.2), math.log(4.0)),
        (ObjectiveConfig(objective="conservative", label_smoothing=0.0), math.inf),  # which is dpo
        (ObjectiveConfig(objective="soft"), math.log(3.0)),  # log(0.75 / 0.25)
        (ObjectiveConfig(objective="hinge"), math.inf),
        (ObjectiveConfig(objective="dpo"), math.inf),
    ],
)
def test_a_loss_turns_where_it_is_least(objective: ObjectiveConfig, turned_at: float) -> None:
    assert float(step_losses.turning_point(objective, torch.tensor(0.75))) == pytest.approx(turned_at, abs=1e-6)


def test_a_timesteps_weight_leaves_the_scale_as_it_is() -> None:
    # The weight 1/(1+3) multiplies e_w, e_l and the overlap: lambda is 0.4 * 0.025 / 0.02 = 0.5, as without it. The
    # logit is 3/4 and each error's slope 100/4 sigma(-3/4).
    config = ObjectiveConfig(objective="dpo", beta=200.0, error="eps", safeguard=0.6)
    policy = POLICY.clone().requires_grad_()
    batch = replace(pairs(slice(0, 1)), timesteps=torch.tensor([3]))
    losses = step_losses.pair_losses(config, Plain(), batch, policy, REFERENCE, StepValues(200.0), OVERLAP)  # type: ignore[arg-type]
    losses.sum().backward()
    push = 25 / (1 + math.exp(0.75))
    assert policy.grad is not None
    assert policy.grad.flatten().tolist() == pytest.approx([push, -0.5 * push], abs=1e-9)


def test_a_guarded_step_lowers_the_winners_error_by_mu_at_least() -> None:
    # In output space: g_w = r_w, g_l = r_l, the step -(g_w - lambda g_l), to first order r_w * step.
    winner = torch.tensor([2.0, 1.0], dtype=torch.float64)
    loser = torch.tensor([3.0, 4.0], dtype=torch.float64)
    scale = stability.loser_scales((winner**2).mean()[None], (winner * loser).mean()[None], 0.6)
    change = -(winner * (winner - scale * loser)).sum()
    assert change.item() == pytest.approx(-0.6 * 5.0, abs=1e-9)  # |g_w|^2 = 5; without lambda it were +5
    assert -(winner * (winner - loser)).sum().item() == 5.0


POLICY_SEED = 16  # of a policy that prefers six of the eight winners below


class Plain:
    """A backbone whose network sees the noisy latents alone."""

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return latents + noise * (1 + timesteps.view(-1, 1, 1, 1)) / 1000

    def target(self, _latents: torch.Tensor, noise: torch.Tensor, _timesteps: torch.Tensor) -> torch.Tensor:
        return noise

    def predict(self, network: torch.nn.Module, noisy: torch.Tensor, *_: object) -> torch.Tensor:
        return network(noisy)

    def epsilon_factor(self, timesteps: torch.Tensor) -> torch.Tensor:
        return 1 / (1 + timesteps.double())


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Conv2d(2, 2, 3, padding=1).double()


def pairs(rows: slice) -> Batch:
    """Cut rows out of a batch of eight pairs."""
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 8, 2, 4, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(8, 2, 4, 4, generator=generator, dtype=torch.float64)
    return Batch(
        pair_ids=np.arange(8)[rows],
        latents=latents[:, rows],
        noise=noise[rows],
        timesteps=torch.arange(8)[rows] * 100,
        conditioning={},
        preferred=torch.ones(8, dtype=torch.float64)[rows],
    )


@dataclass(frozen=True)
class Step:
    """The gradient of a step, and its beta."""

    gradient: torch.Tensor
    beta: float | None


def step(objective: ObjectiveConfig, cuts: Sequence[slice], share: int = 8) -> Step:
    """Take a step over micro-batches of the eight pairs, without an update."""
    policy = network(POLICY_SEED)
    backbone = Plain()
    reference = NetworkReference(backbone, network(2), torch.float32)  # type: ignore[arg-type]
    losses = PairLosses(
        objective=objective,
        backbone=backbone,  # type: ignore[arg-type]
        policy=policy,
        reference=reference,
        autocast=torch.float32,
        device=torch.device("cpu"),
        world_size=1,
    )
    beta = None
    for part in losses.of_step([pairs(rows) for rows in cuts]):
        (part.losses.sum() / share).backward()
        beta = part.beta
    return Step(torch.nn.utils.parameters_to_vector([p.grad for p in policy.parameters() if p.grad is not None]), beta)


def cut(*sizes: int) -> list[slice]:
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


CUTS = (cut(8), cut(4, 4), cut(3, 5), cut(*[1] * 8))


@pytest.mark.parametrize(
    "objective",
    [
        ObjectiveConfig(beta=5.0, safeguard=0.9),
        ObjectiveConfig(objective="dmpo", beta=5.0, safeguard=0.0, sft_weight=2.0),
        ObjectiveConfig(beta="auto", beta_target=0.3, beta_most=1e4),
        ObjectiveConfig(beta="auto", beta_target=0.45, safeguard=0.6),
        ObjectiveConfig(beta="auto", beta_target=0.45, error="eps"),
        ObjectiveConfig(objective="kto", beta=5.0),
    ],
)
def test_any_cut_of_a_batch_gives_the_same_gradient(objective: ObjectiveConfig) -> None:
    whole = step(objective, CUTS[0])
    for cuts in CUTS[1:]:
        other = step(objective, cuts)
        assert torch.allclose(other.gradient, whole.gradient, rtol=1e-9, atol=1e-12)
        assert other.beta == pytest.approx(whole.beta, rel=1e-9)


def test_two_ranks_guard_the_pairs_that_one_guards() -> None:
    # Gradients are averaged over ranks, each with the mean over its own four pairs.
    guarded = ObjectiveConfig(beta=5.0, safeguard=0.9)
    ranks = [step(guarded, cut(4, 4)[rank : rank + 1], share=4).gradient for rank in (0, 1)]
    assert torch.allclose((ranks[0] + ranks[1]) / 2, step(guarded, cut(8)).gradient, rtol=1e-9, atol=1e-12)


def test_one_scale_for_a_whole_micro_batch_would_depend_on_the_cut() -> None:
    # So this batch can tell: per pair the scales differ, and so do the ratios of sums over its two halves.
    batch = pairs(slice(0, 8))
    residuals = forward.pair_residuals(Plain(), network(POLICY_SEED), batch, torch.float32).detach()  # type: ignore[arg-type]
    winner_errors = forward.mean_squares(residuals)[:8]
    overlaps = forward.overlap(residuals)
    scales = stability.loser_scales(winner_errors, overlaps, 0.9)
    assert 0 < scales.min() < scales.max()
    halves = [
        stability.loser_scales(e.sum()[None], o.sum()[None], 0.9)
        for e, o in zip(winner_errors.split(4), overlaps.split(4), strict=True)
    ]
    assert not torch.allclose(halves[0], halves[1], rtol=1e-2)


def test_the_safeguard_and_auto_beta_move_this_batch() -> None:
    plain = step(ObjectiveConfig(beta=5.0), cut(8)).gradient
    assert not torch.allclose(step(ObjectiveConfig(beta=5.0, safeguard=0.9), cut(8)).gradient, plain, rtol=1e-2)
    found = step(ObjectiveConfig(beta="auto", beta_target=0.45), cut(8)).beta
    assert found is not None
    assert found < 5000.0


def test_what_a_steps_pairs_share_is_found_from_weighted_errors() -> None:
    losses = PairLosses(
        objective=ObjectiveConfig(beta="auto", beta_target=0.25, error="eps"),
        backbone=Plain(),  # type: ignore[arg-type]
        policy=network(1),
        reference=NetworkReference(Plain(), network(2), torch.float32),  # type: ignore[arg-type]
        autocast=torch.float32,
        device=torch.device("cpu"),
        world_size=1,
    )
    batch = replace(pairs(slice(0, 1)), timesteps=torch.tensor([3]))
    policy = torch.tensor([[0.10], [0.16]], dtype=torch.float64)
    reference = torch.tensor([[0.12], [0.10]], dtype=torch.float64)
    # The margin (0.10 - 0.16) - (0.12 - 0.10) = -0.08 has the weight 1/(1+3); sigma(-0.01 beta) = 1/4 at 100 log 3.
    values = losses.step_values([batch], [policy], [reference])
    assert values.beta == pytest.approx(100 * math.log(3.0), rel=1e-9)


def test_a_step_computes_the_references_errors_once() -> None:
    calls = []

    class Counted:
        def errors(self, batch: Batch) -> torch.Tensor:
            calls.append(len(batch.pair_ids))
            return torch.zeros(2, len(batch.pair_ids), dtype=torch.float64)

    losses = PairLosses(
        objective=ObjectiveConfig(beta="auto"),
        backbone=Plain(),  # type: ignore[arg-type]
        policy=network(1),
        reference=Counted(),
        autocast=torch.float32,
        device=torch.device("cpu"),
        world_size=1,
    )
    assert len(list(losses.of_step([pairs(rows) for rows in cut(4, 4)]))) == 2
    assert calls == [4, 4]
