"""The flags of the generator, their presets, and which of them decide an image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from infra.base.errors import UserError, check_least
from infra.base.places import PathOrName, PathText
from pipelines.latents.models_known import MODELS

STRENGTH = 0.6  # Wallace et al.'s for edits
REFINER_START = 0.8  # diffusers' and Stability's for the refiner


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Settings of the generator."""

    GROUPS: ClassVar = {
        "basic": ("model", "prompts", "output"),
        "images": ("images_per_prompt", "limit", "seed", "sampling_steps", "guidance_scale", "buckets", "gallery"),
        "model": ("lora", "negative_model", "revision", "dtype", "max_tokens"),
        "edits and refiner": ("init_images", "strength", "refiner", "refiner_start"),
        "speed": ("samplers", "batch_size"),
    }

    model: PathOrName = "infra/world/model"
    """Model to draw with: a diffusers folder, a Hub name, a single .safetensors file, or BASE+FILE."""
    revision: str | None = None
    """Revision of the model on the Hub, for example a commit; by default the newest."""
    lora: PathOrName | None = None
    """Result folder of a LoRA training, or a LoRA file; its adapters are added to --model, which must be the model
    that they were trained on."""
    negative_model: PathOrName | None = None
    """Model of what not to draw, whose prediction without the caption guidance leads away from: one trained on labels
    that combine.py --flip made. A diffusers folder or Hub name of Stable Diffusion 1, 2, XL or 3."""
    prompts: PathOrName = "infra/world/prompts/test.txt"
    """Captions to draw: a text file with one on each line, a .tsv, .csv, .jsonl or .parquet file with a column
    prompt or caption, or a latent store."""
    buckets: bool = False
    """Draw each caption in the model's bucket that is nearest to its shape: to the columns height and width of
    --prompts, or in a store to its pairs' bucket. By default all images have the model's own size."""
    limit: int | None = None
    """Number of captions to take, from the first; by default all."""
    output: PathText = "runs/images"
    """Folder to write the images to, local or s3://."""
    images_per_prompt: int = 1
    """Images of each caption."""
    seed: int = 0
    """Seed of the start noise."""
    sampling_steps: int = 20
    """Denoising steps of each image."""
    guidance_scale: float = 3.0
    """Strength of classifier-free guidance: how closely images follow their captions; 1 and less is none."""
    gallery: int = 500
    """Number of images, from the first, that are also files of their own, shown on the page gallery.html; 0 is none."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format that the model computes in."""
    max_tokens: Literal[0, 77, 128, 256, 512] | None = None
    """Number of tokens that captions are cut or padded to for the T5 or the language model (not for Stable Diffusion
    1, 2 and XL); give the one that the store was encoded with. 0 leaves T5 out, which only SD3 allows."""
    init_images: PathText | None = None
    """Start images to edit: a folder that generate.py or render_images.py wrote, or a table with the columns caption
    and image."""
    strength: float | None = None
    """Share of the denoising steps that an edit takes, above 0 and at most 1; by default 0.6. More changes more."""
    refiner: PathOrName | None = None
    """Refiner of SDXL, a diffusers folder or Hub name, which takes over the last steps."""
    refiner_start: float | None = None
    """Share of the noise levels that the model takes before the refiner, between 0 and 1; by default 0.8."""

    samplers: int = 0
    """Number of copies of the model that draw at once; 0 takes one for each GPU, or one where there is none."""
    batch_size: int = 32
    """Images that each copy draws at once."""


PRESETS = {
    name: GenerateConfig(
        model=model.hub_name,
        sampling_steps=model.sampling_steps,
        guidance_scale=model.guidance_scale,
        dtype="bfloat16",
        batch_size=model.draw_batch,
    )
    for name, model in MODELS.items()
}
LINES = {name: model.sampling_line for name, model in MODELS.items()}


def check_config(config: GenerateConfig) -> GenerateConfig:
    """Return the settings with the defaults of edits and refiner where there are such.

    Raises:
        UserError: naming a flag that is out of range, or without the one that it belongs to.
    """
    at_least_one = ("limit", "images_per_prompt", "sampling_steps", "batch_size")
    check_least(config, {"samplers": 0, "gallery": 0} | dict.fromkeys(at_least_one, 1))
    settled: dict[str, Any] = {}
    for name, needed, default in (("strength", "init_images", STRENGTH), ("refiner_start", "refiner", REFINER_START)):
        value = getattr(config, name)
        if getattr(config, needed) is not None:
            settled[name] = default if value is None else value
        elif value is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {value:g}: has no meaning without --{needed.replace('_', '-')}")
    if config.buckets and config.init_images is not None:
        raise UserError("--buckets: start images have the model's own size; leave --buckets or --init-images out")
    strength = settled.get("strength")
    start = settled.get("refiner_start")
    if strength is not None:
        if not 0 < strength <= 1:
            raise UserError(f"--strength {strength:g}: must be above 0 and at most 1")
        if int(config.sampling_steps * strength) < 1:
            raise UserError(
                f"--strength {strength:g}: leaves none of {config.sampling_steps} sampling steps; give a higher one"
            )
    if start is not None and not 0 < start < 1:
        raise UserError(f"--refiner-start {start:g}: must be between 0 and 1")
    return replace(config, **settled)
