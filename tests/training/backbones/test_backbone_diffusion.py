"""SD and SDXL: noise schedule, targets, timesteps and time ids on hand-worked numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.material import MODEL

from infra.base.errors import UserError
from training.backbones.diffusion import StableDiffusion, StableDiffusionXL
from training.backbones.schedule_config import ScheduleConfig

TURBO = ScheduleConfig((249, 499, 749), zero_terminal_snr=True)


def with_scheduler(folder: Path, **changes: object) -> Path:
    shutil.copytree(MODEL, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_schedule_is_stable_diffusions() -> None:
    backbone = StableDiffusion(MODEL)
    # scaled_linear: beta_t = (sqrt(0.00085) + (sqrt(0.012) - sqrt(0.00085)) t / 999)^2; alpha_0^2 = 1 - 0.00085.
    assert backbone.timesteps == 1000
    assert backbone.alpha[0].item() ** 2 == pytest.approx(1 - 0.00085, abs=1e-6)
    assert backbone.alpha[999].item() ** 2 == pytest.approx(0.0046602, abs=1e-5)  # SD1.5's known last value
    assert torch.allclose(backbone.alpha**2 + backbone.sigma**2, torch.ones(1000), atol=1e-6)


def test_noise_and_epsilon_target() -> None:
    backbone = StableDiffusion(MODEL)
    latents, noise, timesteps = torch.ones(2, 4, 1, 1), torch.full((2, 4, 1, 1), 2.0), torch.tensor([0, 500])
    noisy = backbone.add_noise(latents, noise, timesteps)
    for row, t in enumerate([0, 500]):
        assert noisy[row, 0].item() == pytest.approx((backbone.alpha[t] + 2 * backbone.sigma[t]).item(), abs=1e-6)
    assert backbone.target(latents, noise, timesteps) is noise


def test_velocity_target(tmp_path: Path) -> None:
    backbone = StableDiffusion(with_scheduler(tmp_path / "v", prediction_type="v_prediction"))
    latents, noise, timesteps = torch.full((1, 4, 1, 1), 3.0), torch.full((1, 4, 1, 1), 2.0), torch.tensor([700])
    alpha, sigma = backbone.alpha[700], backbone.sigma[700]
    velocity = backbone.target(latents, noise, timesteps)
    assert velocity[0, 0].item() == pytest.approx((2 * alpha - 3 * sigma).item(), abs=1e-6)
    # From x_t and v the noise comes back: eps = sigma x_t + alpha v.
    recovered = sigma * backbone.add_noise(latents, noise, timesteps) + alpha * velocity
    assert torch.allclose(recovered, noise, atol=1e-5)


def test_errors_of_velocity_become_errors_of_noise(tmp_path: Path) -> None:
    backbone = StableDiffusion(with_scheduler(tmp_path / "v", prediction_type="v_prediction"))
    latents, noise, t = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2), torch.tensor([700])
    noisy, velocity = backbone.add_noise(latents, noise, t), backbone.target(latents, noise, t)
    wrong = velocity + 0.5  # a prediction off by a half everywhere: v-error 1/4
    implied = backbone.sigma[700] * noisy + backbone.alpha[700] * wrong
    error = (implied - noise).square().mean()
    assert error.item() == pytest.approx(0.25 * backbone.epsilon_factor(t).item(), rel=1e-4)
    alpha2 = backbone.alpha[700].item() ** 2
    assert backbone.signal_to_noise(t).item() == pytest.approx(alpha2 / (1 - alpha2), rel=1e-4)


def test_unknown_prediction_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prediction_type is sample"):
        StableDiffusion(with_scheduler(tmp_path / "x", prediction_type="sample"))


def test_timesteps_are_drawn_uniformly_from_all_or_from_those_given() -> None:
    assert [StableDiffusion(MODEL).timestep(u) for u in (0.0, 0.25, 0.9999)] == [0, 250, 999]
    turbo = StableDiffusion(MODEL, TURBO)
    assert [turbo.timestep(u) for u in (0.0, 0.33, 0.34, 0.66, 0.67, 0.9999)] == [249, 249, 499, 499, 749, 749]
    assert turbo.timesteps == 1000  # how many the schedule has, whichever are drawn


def test_rescaled_betas_end_in_pure_noise_and_begin_as_before() -> None:
    plain, rescaled = StableDiffusion(MODEL), StableDiffusion(MODEL, ScheduleConfig(zero_terminal_snr=True))
    assert rescaled.alpha[999] == 0
    assert rescaled.signal_to_noise(torch.tensor([999])).item() == 0
    # Lin et al. 2023, Alg. 1: alpha' = (alpha - alpha_T) alpha_0 / (alpha_0 - alpha_T).
    first, last = plain.alpha[0].item(), plain.alpha[999].item()
    for t in (0, 500):
        expected = (plain.alpha[t].item() - last) * first / (first - last)
        assert rescaled.alpha[t].item() == pytest.approx(expected, abs=1e-5)
    assert plain.schedule() != rescaled.schedule()


def test_pure_noise_teaches_a_model_of_noise_nothing_and_is_left_out(tmp_path: Path) -> None:
    rescaled = StableDiffusion(MODEL, ScheduleConfig(zero_terminal_snr=True))
    x, noise, t = torch.randn(2, 4, 2, 2), torch.randn(1, 4, 2, 2).repeat(2, 1, 1, 1), torch.tensor([999, 999])
    noisy, target = rescaled.add_noise(x, noise, t), rescaled.target(x, noise, t)
    assert torch.equal(noisy[0], noisy[1])  # two images, one input,
    assert torch.equal(target[0], target[1])  # one target: the margin is 0 whatever the network
    assert max(rescaled.timestep(u) for u in (0.999, 0.9999999)) == 998
    with pytest.raises(UserError, match="--timesteps 999: is pure noise"):
        StableDiffusion(MODEL, ScheduleConfig((499, 999), zero_terminal_snr=True))
    assert StableDiffusion(MODEL, ScheduleConfig((499, 999))).timestep(0.9) == 999  # noise with a trace of the image
    # A velocity's target at pure noise is -x_0: it differs between the slots.
    velocity = StableDiffusion(
        with_scheduler(tmp_path / "v", prediction_type="v_prediction"), ScheduleConfig((999,), zero_terminal_snr=True)
    )
    assert torch.allclose(velocity.target(x, noise, t), -x, atol=1e-6)


def test_timesteps_that_the_schedule_has_not_are_refused() -> None:
    for chosen in (-1, 1000):
        with pytest.raises(UserError, match=f"--timesteps {chosen}: .* has timesteps 0 to 999"):
            StableDiffusion(MODEL, ScheduleConfig((chosen,)))


def test_time_ids_are_the_images_size_twice_and_no_crop(tiny_pipeline: Callable[[str], Path]) -> None:
    backbone = StableDiffusionXL(tiny_pipeline("sdxl"))
    # Latents of 8 and 6, two pixels each: height before width.
    assert backbone.time_ids(torch.zeros(2, 4, 8, 6)).tolist() == [[16.0, 12.0, 0.0, 0.0, 16.0, 12.0]] * 2
