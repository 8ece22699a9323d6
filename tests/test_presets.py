"""The named presets: the same models under the same names in every command, and the published settings."""

from __future__ import annotations

import pytest

from infra.base import cli
from pipelines.drawing import generate_config
from pipelines.experiments import rounds_config
from pipelines.latents import encode_config
from training.settings import presets
from training.settings.config import TrainConfig

NAMES = {"sd15", "sd21", "sdxl", "sdxl-turbo", "sd3", "sd35", "flux"}


def parsed(*flags: str) -> TrainConfig:
    seen: list[TrainConfig] = []
    cli.run(seen.append, TrainConfig, presets.PRESETS, list(flags))
    return seen[0]


def test_every_command_has_every_model() -> None:
    assert set(presets.PRESETS) == NAMES | {"sd15-paper"}
    assert set(encode_config.PRESETS) == set(generate_config.PRESETS) == set(rounds_config.PRESETS) == NAMES
    for name in NAMES:
        train, drawn = presets.PRESETS[name], generate_config.PRESETS[name]
        assert train.model == drawn.model == encode_config.PRESETS[name].model
        assert train.validation.sampling_steps == drawn.sampling_steps
        assert train.validation.guidance_scale == drawn.guidance_scale
        assert train.data.global_batch % train.data.micro_batch == 0


def test_sdxl_is_the_launchers() -> None:
    sdxl = parsed("--preset", "sdxl")
    assert (sdxl.objective.beta, sdxl.data.global_batch, sdxl.data.caption_dropout) == (5000.0, 2048, 0.2)
    assert sdxl.optimizer.learning_rate == pytest.approx(2.048e-5)
    assert (sdxl.optimizer.warmup_steps, sdxl.steps) == (200, 2000)
    assert encode_config.PRESETS["sdxl"].resolution == 1024
    assert encode_config.PRESETS["sdxl"].dtype == "float32"  # its VAE overflows in float16


def test_turbo_trains_at_three_of_its_four_timesteps() -> None:
    turbo = parsed("--preset", "sdxl-turbo")
    assert turbo.schedule.timesteps == (249, 499, 749)
    assert turbo.schedule.zero_terminal_snr
    assert turbo.data.caption_dropout == 0.0
    assert encode_config.PRESETS["sdxl-turbo"].resolution == 512
    assert parsed("--preset", "sdxl-turbo", "--timesteps", "499", "749").schedule.timesteps == (499, 749)
    assert parsed("--zero-terminal-snr").schedule.timesteps is None
