"""The noise schedule and targets on hand-worked numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import MODEL

from infra.errors import UserError
from training.backbone import check_fingerprints, open_backbone
from training.backbone_base import ScheduleConfig
from training.backbone_diffusion import StableDiffusion


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


def test_a_pipeline_that_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    with pytest.raises(UserError, match="a PixArtAlphaPipeline; this trainer knows StableDiffusionPipeline"):
        open_backbone(tmp_path, ScheduleConfig())


def test_unknown_prediction_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prediction_type sample"):
        StableDiffusion(with_scheduler(tmp_path / "x", prediction_type="sample"))


def test_a_store_of_another_vae_is_refused_with_both_fingerprints() -> None:
    with pytest.raises(UserError, match=r"store 0000000000000000, model [0-9a-f]{16}"):
        check_fingerprints({"vae": "0" * 64, "text_encoder": "0" * 64}, MODEL, "store")
