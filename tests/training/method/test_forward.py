"""From predictions to errors, and from errors to losses: weights, soft labels, and the baseline of kto."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.batches import random_batch
from support.material import MODEL

from training.backbones.backbone import Backbone
from training.backbones.diffusion import StableDiffusion
from training.method import forward, objectives, step_losses
from training.method.batch import Batch, Images
from training.method.objective_config import ObjectiveConfig

# Two pairs, columns; winners in row 0. At beta 200 the logits are 3 and -1, the rewards (2, -1) and (-2, -1).
POLICY = torch.tensor([[0.10, 0.14], [0.16, 0.16]])
REFERENCE = torch.tensor([[0.12, 0.12], [0.15, 0.15]])


BACKBONE = StableDiffusion(MODEL)


def test_errors_are_means_over_channels_and_pixels() -> None:
    prediction = torch.tensor([[[[1.0, 2.0]], [[3.0, 5.0]]]])  # [1, 2, 1, 2]
    target = torch.tensor([[[[1.0, 1.0]], [[1.0, 1.0]]]])
    assert forward.errors(prediction, target).tolist() == [(0 + 1 + 4 + 16) / 4]


def test_errors_of_half_precision_predictions_are_float32() -> None:
    prediction, target = torch.full((1, 1, 1, 3), 0.1, dtype=torch.bfloat16), torch.zeros(1, 1, 1, 3)
    error = forward.errors(prediction, target)
    assert error.dtype == torch.float32
    assert error.item() == pytest.approx(float(torch.tensor(0.1, dtype=torch.bfloat16)) ** 2, rel=1e-6)


class Noted:
    """A backbone whose parts are told apart by their numbers, and which notes autocast around its network."""

    def __init__(self) -> None:
        self.autocast: list[torch.dtype | None] = []

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return 100 * latents + 10 * noise + timesteps.view(-1, 1, 1, 1)

    def target(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return latents - noise + 0.5 * timesteps.view(-1, 1, 1, 1)

    def predict(self, network: object, noisy: torch.Tensor, timesteps: torch.Tensor, text: object) -> torch.Tensor:
        assert network == "the network"
        assert text == {"text": "of both"}
        enabled = torch.is_autocast_enabled("cpu")
        self.autocast.append(torch.get_autocast_dtype("cpu") if enabled else None)
        return noisy + 1000 * timesteps.view(-1, 1, 1, 1)


@pytest.mark.parametrize(("dtype", "inside"), [(torch.float32, None), (torch.float16, torch.float16)])
def test_a_network_sees_the_noisy_latents_and_its_target_is_subtracted(
    dtype: torch.dtype, inside: torch.dtype | None
) -> None:
    images = Images(
        latents=torch.full((1, 1, 1, 1), 2.0),
        noise=torch.full((1, 1, 1, 1), 3.0),
        timesteps=torch.tensor([4]),
        conditioning={"text": "of both"},  # type: ignore[dict-item]
    )
    noted = Noted()
    residuals = forward.image_residuals(noted, "the network", images, dtype)  # type: ignore[arg-type]
    # Noisy 200 + 30 + 4, prediction 4000 more; target 2 - 3 + 2.
    assert residuals.tolist() == [[[[4234.0 - 1.0]]]]
    assert noted.autocast == [inside]


def batch(preferred: tuple[float, float] = (1.0, 1.0), timesteps: tuple[int, int] = (0, 999)) -> Batch:
    nothing = torch.zeros(2, 2, 1, 1, 1)
    return Batch(
        pair_ids=np.arange(2),
        latents=nothing,
        noise=nothing[0],
        timesteps=torch.tensor(timesteps),
        conditioning={},
        preferred=torch.tensor(preferred),
    )


def losses_of(config: ObjectiveConfig, of: Batch, policy: torch.Tensor, reference: torch.Tensor | None) -> torch.Tensor:
    """Compute the losses of a micro-batch that is a whole step."""
    values = step_losses.step_values(config, [policy], [] if reference is None else [reference])
    return step_losses.pair_losses(config, BACKBONE, of, policy, reference, values)


def test_each_pair_has_its_own_probability() -> None:
    losses = losses_of(ObjectiveConfig(objective="soft", beta=200.0), batch((1.0, 0.75)), POLICY, REFERENCE)
    second = 0.75 * math.log(1 + math.exp(1.0)) + 0.25 * math.log(1 + math.exp(-1.0))
    assert losses.tolist() == pytest.approx([math.log(1 + math.exp(-3.0)), second], abs=1e-5)


def test_each_pair_has_the_weight_of_its_timestep() -> None:
    config = ObjectiveConfig(objective="dpo", beta=200.0, weighting="min-snr")
    losses = losses_of(config, batch(), POLICY, REFERENCE)
    # SD1.5: alpha^2 is 1 - 0.00085 at t = 0, so SNR 1175.5 and the weight 5/1175.5; at t = 999 the SNR is below 5.
    weight = 5 / ((1 - 0.00085) / 0.00085)
    expected = [math.log(1 + math.exp(-3.0 * weight)), math.log(1 + math.exp(1.0))]
    assert losses.tolist() == pytest.approx(expected, abs=1e-5)
    alone = losses_of(ObjectiveConfig(objective="sft", weighting="min-snr"), batch(), POLICY, None)
    assert alone.tolist() == pytest.approx([0.10 * weight, 0.14], abs=1e-5)


def test_the_only_micro_batch_is_ktos_own_baseline() -> None:
    config = ObjectiveConfig(objective="kto", beta=200.0)
    less_bad = REFERENCE + 0.02  # all rewards are 2 higher
    losses = losses_of(config, batch(), POLICY, less_bad)
    # Rewards 4, 0 and 1, 1 (winner, loser: 4 and 1; 0 and 1), mean 1.5.
    gains = [(4 - 1.5, 1 - 1.5), (0 - 1.5, 1 - 1.5)]
    expected = [0.5 * (1 / (1 + math.exp(w)) + 1 / (1 + math.exp(-lost))) for w, lost in gains]
    assert losses.tolist() == pytest.approx(expected, abs=1e-5)


def test_the_baseline_is_the_mean_over_micro_batches_and_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = torch.tensor([[2.0], [-1.0]]), torch.tensor([[4.0], [3.0]])
    assert objectives.kto_baseline([first, second], 1).item() == 2.0  # (2 - 1 + 4 + 3) / 4
    assert objectives.kto_baseline([-first, -second], 1).item() == 0.0
    monkeypatch.setattr(
        objectives.dist, "all_reduce", lambda total: total.add_(torch.tensor([-6.0, 4.0]))
    )  # of another rank
    assert objectives.kto_baseline([first, second], 2).item() == 0.25  # (8 - 6) / 8


def test_a_reward_that_is_not_finite_does_not_spoil_the_others() -> None:
    spoilt = torch.tensor([[2.0, float("nan")], [4.0, float("inf")]])
    assert objectives.kto_baseline([spoilt], 1).item() == 1.5


@pytest.mark.parametrize(("cores", "threads", "spare"), [(2, 1, True), (1, 1, False), (3, 2, False), (4, 2, True)])
def test_a_core_is_spare_where_each_thread_has_two(
    cores: int, threads: int, spare: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert forward._has_a_spare_core() == spare


@pytest.mark.parametrize(("cores", "beside"), [({0, 1}, True), ({0}, False)])
def test_a_spare_core_computes_the_references_errors_beside_the_policys_to_the_last_bit(
    cores: set[int], beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = forward.NetworkReference(BACKBONE, BACKBONE.load_network().requires_grad_(False), torch.float32)
    losses = forward.PairLosses(
        objective=ObjectiveConfig(beta=500.0),
        backbone=BACKBONE,
        policy=BACKBONE.load_network(),
        reference=reference,
        autocast=torch.float32,
        device=torch.device("cpu"),
        world_size=1,
    )
    first = random_batch()
    batches = [first, replace(first, noise=first.noise.flip(0))]
    in_line = [reference.errors(batch) for batch in batches]
    assert not torch.equal(*in_line)
    compute = forward.pair_errors
    where: list[str] = []

    def noted(backbone: Backbone, network: torch.nn.Module, batch: Batch, autocast: torch.dtype) -> torch.Tensor:
        where.append(threading.current_thread().name)
        return compute(backbone, network, batch, autocast)

    monkeypatch.setattr("os.sched_getaffinity", lambda _: cores)  # torch has one thread here
    monkeypatch.setattr(forward, "pair_errors", noted)
    for measured, expected in zip(losses.of_step(batches), in_line, strict=True):
        assert measured.reference_errors is not None
        assert torch.equal(measured.reference_errors, expected)
        assert not measured.reference_errors.requires_grad
    assert [name.startswith("reference") for name in where] == [beside, beside]
    where.clear()
    next(losses.of_step([*batches, first]))  # a step that ends early
    reference.beside.shutdown()
    assert len(where) == (2 if beside else 1)  # of the first micro-batch, and beside its backward pass of the second
