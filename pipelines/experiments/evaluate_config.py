"""The flags of an evaluation and their presets, apart from its steps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import tyro

from infra.base.flags import Shown
from infra.base.places import PathOrName, PathText
from labelers.scoring.endpoint_config import ENDPOINT_FLAGS, EndpointConfig
from pipelines.drawing import generate_config
from pipelines.drawing.generate_config import GenerateConfig
from pipelines.judging.score_config import SCORE_EACH
from pipelines.latents.safety_config import SafetyConfig

WORLD = "infra/world"
NO_JUDGE = ("none",)

# Both models' settings; each step fills in the rest.
NOT_CHOSEN = GenerateConfig(model="", prompts="", output="", gallery=0)

DrawingFlags = Shown(
    "images_per_prompt",
    "seed",
    "sampling_steps",
    "guidance_scale",
    "buckets",
    "dtype",
    "max_tokens",
    "init_images",
    "strength",
    "refiner",
    "refiner_start",
    "samplers",
    "batch_size",
)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of the evaluation, and of the generator for both models."""

    GROUPS: ClassVar = {
        "basic": ("model", "base", "prompts", "output", "scorers"),
        "images": ("images_per_prompt", "limit", "seed", "sampling_steps", "guidance_scale", "buckets"),
        "models": ("revision", "lora", "base_revision", "base_lora", "base_images", "dtype", "max_tokens"),
        "prompts": ("split", "category_column"),
        "judging": ("weights", "scorer_python", "true_images", "feature_model"),
        "content filter": ("prompt_blocklist", "safety_checker", "safety_revision"),
        "edits and refiner": ("init_images", "strength", "refiner", "refiner_start"),
        "speed": ("samplers", "batch_size", "scoring_batch_size"),
        "scorer behind an address": ENDPOINT_FLAGS,
    }

    model: PathOrName | None = None
    """Model to judge, a diffusers folder or Hub name; by default the base with the adapters of --lora."""
    revision: str | None = None
    """Revision of that model on the Hub."""
    lora: PathOrName | None = None
    """Result folder of a LoRA training, or a LoRA file; its adapters are added to --model."""
    base: PathOrName = f"{WORLD}/model"
    """Model to compare with, a diffusers folder or Hub name."""
    base_revision: str | None = None
    """Revision of the base on the Hub."""
    base_lora: PathOrName | None = None
    """Result folder of a LoRA training, or a LoRA file; its adapters are added to --base."""
    prompts: PathOrName = f"{WORLD}/prompts/test.txt"
    """Prompts to draw: a text, CSV, TSV, JSONL or Parquet file, a latent store, the name of a Hugging Face dataset, or
    a known set. Known sets are pick-a-pic=PATH, parti=PATH and hpsv2=FOLDER."""
    split: str | None = None
    """Split of the dataset; by default train, and validation_unique for pick-a-pic."""
    category_column: tuple[str, ...] = ()
    """Columns by which the results are broken down; by default Category, Challenge and style where they exist."""
    limit: int | None = None
    """Number of prompts to take, from the first; by default all."""
    output: PathText = "runs/evaluation"
    """Folder to write, local or s3://. Give the same folder again to go on from there."""
    base_images: PathText | None = None
    """Folder of the base's images, which several evaluations may share; by default base/ in --output."""
    scorers: tuple[str, ...] = ("oracle", "fidelity")
    """Scorers: names from docs/scorers.md, for example pickscore or clip, module:function, or the http:// or https://
    address of a model that sees images, up to its /v1. The first one's win rate is the headline. With none there is no
    judge, and the page shows the images side by side."""
    weights: tuple[PathOrName, ...] = ()
    """Weights of the scorers: world (of the embedded world), published (from the Hub), or NAME=PATH for one of them."""
    true_images: PathText | None = None
    """Folder of true images, for the distance KID; without it there is none."""
    feature_model: PathOrName | None = None
    """Model whose VAE gives the features for KID and diversity; by default the base."""
    scoring_batch_size: int = 64
    """Images that are scored at once."""
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    draw: Annotated[GenerateConfig, DrawingFlags] = NOT_CHOSEN
    scorer_python: tuple[PathText, ...] = ()
    """Pythons of scorers that run in environments of their own, NAME=VENV/bin/python, for example for imagereward."""
    endpoint: EndpointConfig = SCORE_EACH

    @property
    def judges(self) -> tuple[str, ...]:
        """Return the scorers; empty where nobody judges."""
        return () if self.scorers == NO_JUDGE else self.scorers


PUBLISHED = ("pickscore", "hpsv2", "clip", "aesthetics")

PRESETS = {
    name: EvaluateConfig(
        base=preset.model,
        base_revision=preset.revision,
        prompts=tyro.MISSING,  # the embedded world's are none for these models
        output=f"runs/evaluation-{name}",
        scorers=PUBLISHED,
        weights=("published",),
        draw=replace(preset, model="", revision=None, lora=None, prompts="", limit=None, output="", gallery=0),
    )
    for name, preset in generate_config.PRESETS.items()
}
