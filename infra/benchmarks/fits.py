"""Which models fit on which card: `python infra/benchmarks/fits.py` counts the trainer's memory and prints a table.

Each model of infra/benchmarks/shapes is counted as the trainer's dry run counts it, without weights or a GPU: in
bfloat16, with activation checkpointing and cached reference errors. One line is for training all weights, and one for
adapters beside each precision of the frozen weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from infra.base import cli
from pipelines.latents import planned
from pipelines.latents.models_known import MODELS
from training.layout.sharding_config import ShardingConfig
from training.method.policy_config import PolicyConfig
from training.run import plan
from training.settings.config import TrainConfig
from training.settings.presets import PRESETS


@dataclass(frozen=True, kw_only=True)
class FitsConfig:
    """Flags of the table."""

    models: tuple[str, ...] = ("sd15", "sdxl", "sana", "flux2-klein", "z-image", "flux", "qwen-image", "flux2-dev")
    """Presets to count."""
    lora_rank: int = 16
    """Rank of the adapters."""


def settings(model: str, rank: int) -> Iterator[tuple[str, TrainConfig]]:
    """Yield the ways to train a model, each with its name."""
    usual = PRESETS[model]
    usual = replace(
        usual,
        data=replace(usual.data, micro_batch=1, reference="base"),
        sharding=ShardingConfig(activation_checkpointing=True),
    )
    yield "all weights", usual
    yield "LoRA, float32", replace(usual, policy=PolicyConfig(lora_rank=rank))
    yield "LoRA, bfloat16", replace(usual, policy=PolicyConfig(lora_rank=rank, base_precision="bfloat16"))
    yield "LoRA, fp8", replace(usual, policy=PolicyConfig(lora_rank=rank, base_precision="fp8"))
    yield "LoRA, nf4", replace(usual, policy=PolicyConfig(lora_rank=rank, base_precision="nf4"))
    offloaded = replace(usual.sharding, offload="blocks")
    yield (
        "LoRA, bfloat16, offloaded",
        replace(usual, policy=PolicyConfig(lora_rank=rank, base_precision="bfloat16"), sharding=offloaded),
    )


def counted(folder: Path, config: TrainConfig, resolution: int) -> tuple[float, list[int]]:
    """Count the bytes of one pair at once, and how many pairs at once fit on each card of plan.CARDS."""
    manifest = planned.planned_store(folder, resolution, None, planned.PAIRS, planned.CAPTIONS)
    network = plan.counted_network(config, folder, manifest)
    held = sum(size for _, size in plan.memory(plan.layout(config), network)) + network.activations
    return held, plan.fitting(held, config.data.micro_batch, network)


def main(config: FitsConfig) -> None:
    """Print how many pairs at once fit on each size of card, for each model and way to train it."""
    cards = " | ".join(f"{card} GB" for card in plan.CARDS)
    print(f"| model | trained | GB with one pair | {cards} |\n|{'---|' * (3 + len(plan.CARDS))}", flush=True)
    for model in config.models:
        folder = planned.SHAPES / model
        for name, one in settings(model, config.lora_rank):
            held, pairs = counted(folder, one, MODELS[model].resolution)
            print(f"| {model} | {name} | {held / 1e9:.1f} | {' | '.join(map(str, pairs))} |", flush=True)


if __name__ == "__main__":
    cli.run(main, FitsConfig)
