"""Drawing images with a diffusers pipeline, each from its own start noise, whatever the batch it is drawn in.

Where there are start images the pipeline is diffusers' own of that kind for image-to-image: it encodes each, adds the
noise of the step that strength x steps denoising steps begin at, and denoises (SDEdit, Meng et al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from infra.base import (
    files,
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError

import diffusers  # isort: skip
from diffusers import AutoPipelineForImage2Image, DiffusionPipeline  # isort: skip

from pipelines.latents import kinds
from pipelines.raw.pairs import hash64

SAFETY_CHECKER = "safety_checker"


@dataclass(frozen=True)
class Edit:
    """What images are drawn from, in place of noise alone."""

    images: Sequence[Image.Image]  # [B], of the side that the model draws
    strength: float  # share of the denoising steps that are taken; 1 leaves nothing of a start image


@dataclass(frozen=True)
class Refiner:
    """SDXL's second model, which takes the last steps (Podell et al. 2023)."""

    pipeline: DiffusionPipeline
    start: float  # the share of the noise levels, from the top, that the first model takes


def load_pipeline(
    folder: Path,
    dtype: torch.dtype,
    device: str,
    max_tokens: int | None = None,
    lora: Path | None = None,
    edits: bool = False,
    **components: Any,
) -> DiffusionPipeline:
    """Load any diffusers pipeline from a local folder, safetensors only; components in memory replace its own.

    A safety checker is left out: the images it blackens would count as losses, more for one model than for the other.

    Args:
        max_tokens: of T5; 0 leaves it out, and zeros take its place.
        lora: folder of a LoRA result, whose adapters are added.
        edits: whether it is to draw from start images.

    Raises:
        UserError: if the model has no T5 to choose it for, or can't do without.
    """
    models.quiet()
    index = files.read_json(str(folder / "model_index.json"))
    if max_tokens is not None or index["_class_name"] in kinds.KINDS:
        t5 = kinds.kind_of(folder).t5
        if not kinds.t5_tokens(folder, max_tokens) and t5:  # diffusers wants to be told even where the folder has none
            components |= {t5: None, kinds.tokenizer_of(t5): None}
    if SAFETY_CHECKER in index:
        components |= {SAFETY_CHECKER: None, "requires_safety_checker": False}
    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtype, use_safetensors=True, **components)
    if lora:
        pipeline.load_lora_weights(str(lora), weight_name=models.ADAPTERS, use_safetensors=True, local_files_only=True)
    if edits:
        pipeline = AutoPipelineForImage2Image.from_pipe(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def image_seed(seed: int, index: int, caption: str) -> int:
    """Return the 32-bit seed of an image's noise: a function of run seed, image index and caption, not the model."""
    return hash64(b"image", f"{seed}/{index}".encode(), caption.encode("utf-8", "surrogatepass")) % (1 << 32)


@torch.inference_mode()
def draw_images(
    pipeline: DiffusionPipeline,
    captions: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    guidance_scale: float,
    max_tokens: int | None = None,
    edit: Edit | None = None,
    refiner: Refiner | None = None,
) -> list[Image.Image]:
    """Draw one image per caption.

    Args:
        seeds: [B], each image's own; the same seed and caption start from the same noise for every model.
        steps: denoising steps.
        guidance_scale: classifier-free guidance; 1 means none.
        max_tokens: to which T5's captions are cut or padded; diffusers' own number by default, and of the zeros in
            place of a T5 that was left out.
        edit: start images, for a pipeline loaded for edits.
        refiner: takes the last steps, from the pipeline's latents.
    """
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    common: dict[str, Any] = {
        "prompt": list(captions),
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "generator": generators,
    }
    options: dict[str, Any] = {"max_sequence_length": max_tokens} if max_tokens else {}
    if edit:
        options |= {"image": list(edit.images), "strength": edit.strength}
    if refiner:
        options |= {"denoising_end": refiner.start, "output_type": "latent"}
    assert callable(pipeline)
    drawn = pipeline(**common, **options).images
    if refiner is None:
        return drawn
    assert callable(refiner.pipeline)
    return refiner.pipeline(**common, image=drawn, denoising_start=refiner.start).images


def check_refiner(folder: Path, refiner: Path, steps: int, start: float, strength: float = 1.0) -> None:
    """Refuse a model that has no refiner, another model than a refiner, and a start that leaves one of them no step.

    Args:
        folder, refiner: diffusers folders.

    Raises:
        UserError: naming the flag.
    """
    for path, flag, wanted in ((folder, "--model", kinds.REFINED), (refiner, "--refiner", kinds.REFINER)):
        if (found := files.read_json(str(path / "model_index.json"))["_class_name"]) != wanted:
            raise UserError(f"{flag} {path}: a {found}; a refiner is a {kinds.REFINER}, for a {kinds.REFINED}")
    if not any(_before(folder, steps, start, strength)):
        raise UserError(f"--refiner-start {start:g}: leaves the model none of {steps} sampling steps")
    if all(_before(refiner, steps, start)):
        raise UserError(f"--refiner-start {start:g}: leaves the refiner none of {steps} sampling steps")


def _before(folder: Path, steps: int, start: float, strength: float = 1.0) -> list[bool]:
    """Say of each denoising step of a folder's scheduler whether it comes before a refiner's start."""
    name = files.read_json(str(folder / "model_index.json"))["scheduler"][1]
    scheduler = getattr(diffusers, name).from_pretrained(folder, subfolder="scheduler")
    scheduler.set_timesteps(steps)
    levels = scheduler.config["num_train_timesteps"]
    first = (steps - int(steps * strength)) * scheduler.order
    return [t >= round(levels - start * levels) for t in scheduler.timesteps.tolist()[first:]]
