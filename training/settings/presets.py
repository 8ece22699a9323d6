"""The trainer's presets: one for each known model, one with the paper's own figures, and two with adapters.

docs/method.md says whose settings they are, and where their sources disagree.
"""

from __future__ import annotations

from dataclasses import replace

from pipelines.latents.models_known import MODELS, KnownModel
from training.backbones.schedule_config import ScheduleConfig
from training.layout.sharding_config import ShardingConfig
from training.method.objective_config import ObjectiveConfig
from training.method.optimizer_config import OptimizerConfig
from training.method.policy_config import PolicyConfig
from training.settings.config import DataConfig, TrainConfig, ValidationConfig

# The launchers of the paper's authors. They and the paper contradict each other on the learning rate, 2,500-fold at
# beta 5000; the launchers' is the preset `sd15`, the paper's `sd15-paper`.
OPTIMIZERS = {
    "sd15": OptimizerConfig(learning_rate=1e-8 * 2048, warmup_steps=500),
    "sdxl": OptimizerConfig(optimizer="adafactor", learning_rate=1e-8 * 2048, warmup_steps=200),
}


def preset(model: KnownModel) -> TrainConfig:
    """Build a known model's training: the launchers' 2,000 steps of 2,048 pairs at beta 5000."""
    return TrainConfig(
        model=model.hub_name,
        steps=2000,
        checkpoint_every=100,
        precision="bfloat16",
        cpus_per_worker=4,
        data=DataConfig(global_batch=2048, micro_batch=model.micro_batch, caption_dropout=model.caption_dropout),
        schedule=ScheduleConfig(timesteps=model.timesteps, zero_terminal_snr=model.zero_terminal_snr),
        objective=ObjectiveConfig(beta=5000.0),
        optimizer=OPTIMIZERS[model.launcher],
        validation=ValidationConfig(
            validation_scorer="pickscore",
            validation_weights="published",
            sampling_steps=model.sampling_steps,
            guidance_scale=model.guidance_scale,
        ),
    )


def adapters_preset(whole: TrainConfig, micro_batch: int) -> TrainConfig:
    """Build the training of adapters on one GPU of 24 GB, from that of the whole network."""
    return replace(
        whole,
        data=replace(whole.data, global_batch=32, micro_batch=micro_batch),
        policy=PolicyConfig(lora_rank=8),
        sharding=ShardingConfig(activation_checkpointing=True),
        optimizer=OptimizerConfig(learning_rate=1e-5, warmup_steps=0),
    )


PRESETS = {name: preset(model) for name, model in MODELS.items()}
PRESETS["sd15-paper"] = replace(
    PRESETS["sd15"],
    objective=ObjectiveConfig(beta=2000.0),
    optimizer=OptimizerConfig(learning_rate=2.048e-8, warmup_steps=500),
)
PRESETS["sd15-lora"] = adapters_preset(PRESETS["sd15"], micro_batch=8)
PRESETS["sdxl-lora"] = adapters_preset(PRESETS["sdxl"], micro_batch=1)
# What others published for flow models, in this project's convention: flow_grpo, Flow-Factory and verl-omni have beta
# 100 for SD3.5 medium with rates from 1e-5 to 3e-4, and Flow-Factory notes a collapse from 1e-4 on. For FLUX.1
# flow_grpo's users have beta 500, and spikes; its rate is carried over. docs/stability.md has the table.
PRESETS |= {
    f"{name}-lora": replace(
        adapters_preset(PRESETS[name], micro_batch=1),
        objective=ObjectiveConfig(beta=beta),
        policy=PolicyConfig(lora_rank=32, lora_alpha=64),
    )
    for name, beta in (("sd35", 100.0), ("flux", 500.0))
}
LINES = {name: model.training_line for name, model in MODELS.items()}
for name in ("sd15", "sdxl"):
    LINES[f"{name}-lora"] = f"{MODELS[name].line}; adapters of rank 8, 32 pairs a step, for a GPU of 24 GB; untried"
LINES["sd15-paper"] = f"{MODELS['sd15'].line}; beta and learning rate as the paper states them"
LINES["sd35-lora"] = f"{MODELS['sd35'].line}; adapters at flow_grpo's beta 100 and the lowest rate in use"
LINES["flux-lora"] = f"{MODELS['flux'].line}; adapters at beta 500, as flow_grpo's users have; the rate is untried"
