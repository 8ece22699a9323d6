"""The flags of rejection sampling and their presets, apart from what draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from infra.base.flags import Shown
from infra.base.places import PathOrName, PathText
from pipelines.drawing import generate_config
from pipelines.drawing.generate_config import GenerateConfig

DrawingFlags = Shown(
    "model",
    "revision",
    "lora",
    "prompts",
    "limit",
    "seed",
    "sampling_steps",
    "guidance_scale",
    "dtype",
    "max_tokens",
    "refiner",
    "refiner_start",
    "samplers",
    "batch_size",
)


@dataclass(frozen=True, kw_only=True)
class RejectionConfig:
    """Settings of the experiment, and of the generator. The model is the tuned one."""

    GROUPS: ClassVar = {
        "basic": ("model", "base", "prompts", "output", "scorer"),
        "experiment": ("weights", "cap"),
        "images": ("limit", "seed", "sampling_steps", "guidance_scale"),
        "models": ("revision", "lora", "base_revision", "dtype", "max_tokens", "refiner", "refiner_start"),
        "speed": ("samplers", "batch_size"),
    }

    base: PathOrName = "infra/world/model"
    """Base model, which draws until it wins; a diffusers folder or Hub name."""
    base_revision: str | None = None
    """Revision of the base on the Hub."""
    scorer: str = "oracle"
    """Scorer that says which image is better: a name from docs/scorers.md, or module:function."""
    weights: tuple[PathOrName, ...] = ()
    """Weights of the scorer: world (of the embedded world), published (from the Hub), or NAME=PATH."""
    cap: int = 100
    """Images after which the base gives up on a caption."""
    output: PathText = "runs/rejection"
    """Folder to write, local or s3://. Give the same folder again to go on from there."""
    draw: Annotated[GenerateConfig, DrawingFlags] = field(default_factory=lambda: GenerateConfig(output="", gallery=0))


PRESETS = {
    name: RejectionConfig(
        base=preset.model,
        base_revision=preset.revision,
        scorer="pickscore",
        weights=("published",),
        draw=preset,
    )
    for name, preset in generate_config.PRESETS.items()
}
