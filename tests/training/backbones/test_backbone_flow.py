"""SD3 and FLUX: shifted noise levels, targets, timesteps, packing and guidance on hand-worked numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.base.errors import UserError
from training.backbones import flow
from training.backbones.flow import Flux, StableDiffusion3
from training.backbones.schedule_config import ScheduleConfig

from diffusers import FluxPipeline  # isort: skip

Pipelines = Callable[[str], Path]


def test_noise_levels_are_the_schedulers_shifted_ones_growing(tiny_pipeline: Pipelines) -> None:
    sigmas = StableDiffusion3(tiny_pipeline("sd3")).sigmas
    # Shift 3: s = 3 u / (1 + 2 u) of u = 1/1000 .. 1000/1000.
    for index, u in ((0, 0.001), (499, 0.5), (999, 1.0)):
        assert sigmas[index].item() == pytest.approx(3 * u / (1 + 2 * u), abs=1e-6)
    assert (sigmas.diff() > 0).all()


def test_a_dynamic_shift_is_the_one_of_the_models_own_resolution(tiny_pipeline: Pipelines) -> None:
    sigmas = Flux(tiny_pipeline("flux")).sigmas
    # 128 x 128 latents in 2 x 2 patches are 4096 tokens, where mu is max_shift: s = e^1.15 / (e^1.15 + 1/u - 1).
    grown = math.exp(1.15)
    for index, u in ((0, 0.001), (499, 0.5), (999, 1.0)):
        assert sigmas[index].item() == pytest.approx(grown / (grown + 1 / u - 1), abs=1e-6)


def test_timesteps_are_logit_normal(tiny_pipeline: Pipelines) -> None:
    backbone = StableDiffusion3(tiny_pipeline("sd3"))
    # 0.8413 of a normal distribution lies below 1 deviation, and sigmoid(1) = 0.7311; its mirror is 0.2689.
    assert [backbone.timestep(u) for u in (0.0, 0.158655, 0.5, 0.841345, 1 - 2**-53)] == [0, 268, 500, 731, 999]
    few = StableDiffusion3(tiny_pipeline("sd3"), ScheduleConfig((250, 750)))
    assert [few.timestep(u) for u in (0.0, 0.49, 0.5, 0.99)] == [250, 250, 750, 750]


def test_noise_and_target_lie_on_a_straight_line(tiny_pipeline: Pipelines) -> None:
    backbone = StableDiffusion3(tiny_pipeline("sd3"))
    x, noise, t = torch.full((1, 16, 1, 1), 3.0), torch.full((1, 16, 1, 1), 1.0), torch.tensor([499])
    # s = 3/2 / 2 = 0.75: a quarter of 3 and three quarters of 1 are 1.5; the direction is 1 - 3.
    assert backbone.add_noise(x, noise, t).flatten().tolist() == pytest.approx([1.5] * 16, abs=1e-6)
    assert backbone.target(x, noise, t).flatten().tolist() == [-2.0] * 16
    assert backbone.signal_to_noise(t).item() == pytest.approx((0.25 / 0.75) ** 2, abs=1e-6)


def test_errors_of_flow_become_errors_of_noise(tiny_pipeline: Pipelines) -> None:
    backbone = StableDiffusion3(tiny_pipeline("sd3"))
    x, noise, t = torch.randn(1, 16, 2, 2), torch.randn(1, 16, 2, 2), torch.tensor([499])
    noisy, wrong = backbone.add_noise(x, noise, t), backbone.target(x, noise, t) + 0.5
    implied = noisy + 0.25 * wrong  # eps = x_s + (1 - s) v
    assert (implied - noise).square().mean().item() == pytest.approx(0.25 * 0.0625, rel=1e-4)
    assert backbone.epsilon_factor(t).item() == pytest.approx(0.0625, abs=1e-6)


def test_a_token_is_a_square_of_latents_and_packing_is_the_pipelines() -> None:
    latents = torch.arange(2 * 4 * 6, dtype=torch.float32).view(1, 2, 4, 6)
    packed = flow.pack(latents)
    # The second token: rows 0 and 1, columns 2 and 3, of channel 0 and then of channel 1, which begins at 24.
    assert packed.shape == (1, 6, 8)
    assert packed[0, 1].tolist() == [2, 3, 8, 9, 26, 27, 32, 33]
    assert torch.equal(packed, FluxPipeline._pack_latents(latents, 1, 2, 4, 6))
    assert torch.equal(flow.unpack(packed, 4, 6), latents)
    ids = flow.image_ids(4, 6, torch.device("cpu"))
    assert ids.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]]
    assert torch.equal(ids, FluxPipeline._prepare_latent_image_ids(1, 2, 3, torch.device("cpu"), torch.float32))


def test_flux_is_told_its_noise_level_and_guidance(tiny_pipeline: Pipelines) -> None:
    backbone, given = Flux(tiny_pipeline("flux")), dict[str, Any]()

    def network(**arguments: Any) -> tuple[torch.Tensor]:
        given.update(arguments)
        return (arguments["hidden_states"],)

    noisy = torch.randn(2, 16, 4, 4)
    text = {"text_encoder_pooled": torch.zeros(2, 8), "text_encoder_2": torch.zeros(2, 77, 24)}
    predicted = backbone.predict(network, noisy, torch.tensor([0, 999]), text)  # type: ignore[arg-type]
    assert torch.equal(predicted, noisy)  # packed and unpacked
    assert given["timestep"].tolist() == pytest.approx([backbone.sigmas[0].item(), 1.0])  # not times 1000
    assert given["guidance"].tolist() == [3.5, 3.5]
    assert given["txt_ids"].shape == (77, 3)
    backbone.guidance = None  # as FLUX.1-schnell, which has no such embedding
    backbone.predict(network, noisy, torch.tensor([0, 999]), text)  # type: ignore[arg-type]
    assert given["guidance"] is None


def test_sd3_is_told_a_thousand_times_its_noise_level(tiny_pipeline: Pipelines) -> None:
    backbone, given = StableDiffusion3(tiny_pipeline("sd3")), dict[str, Any]()

    def network(**arguments: Any) -> tuple[torch.Tensor]:
        given.update(arguments)
        return (arguments["hidden_states"],)

    parts = {"text_encoder": (16, 8), "text_encoder_2": (16, 12)}
    parts |= {"text_encoder_pooled": (8,), "text_encoder_2_pooled": (12,), "text_encoder_3": (77, 24)}  # type: ignore[dict-item]
    text = {name: torch.zeros(1, *shape) for name, shape in parts.items()}
    backbone.predict(network, torch.zeros(1, 16, 4, 4), torch.tensor([499]), text)  # type: ignore[arg-type]
    assert given["timestep"].tolist() == pytest.approx([750.0])


def test_a_flow_has_no_betas_to_rescale(tiny_pipeline: Pipelines) -> None:
    with pytest.raises(UserError, match=r"--zero-terminal-snr: .* is a flow model"):
        Flux(tiny_pipeline("flux"), ScheduleConfig(zero_terminal_snr=True))
    with pytest.raises(UserError, match=r"--timesteps 1000: .* has timesteps 0 to 999"):
        Flux(tiny_pipeline("flux"), ScheduleConfig((1000,)))
