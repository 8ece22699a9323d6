"""Draw images with a diffusers pipeline, each from start noise of its own that does not depend on its batch.

With start images the pipeline is diffusers' image-to-image pipeline of the same model (SDEdit, Meng et al. 2022). It
encodes each start image, adds the noise at which the last strength x steps denoising steps begin, and takes these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from infra.base import (
    files,
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError

import diffusers  # isort: skip

from pipelines.drawing.guidance import guidance
from pipelines.drawing.image_identity import SAFETY_CHECKER
from pipelines.drawing.sizes import size_arguments
from pipelines.latents import kinds, schedules
from pipelines.latents.adapters import load_adapters
from pipelines.latents.components import absent_optional
from pipelines.latents.kinds_known import KINDS

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


@dataclass(frozen=True)
class Edit:
    """Start images, and how far to move away from them."""

    images: Sequence[Image.Image]  # [B], of the side that the model draws
    strength: float  # share of the denoising steps that are taken; at 1 nothing of a start image is left


@dataclass(frozen=True)
class Refiner:
    """The second model of SDXL, which takes the last steps (Podell et al. 2023)."""

    pipeline: DiffusionPipeline
    start: float  # share of the noise levels, from the highest, that the first model takes


def load_pipeline(
    folder: Path,
    dtype: torch.dtype,
    device: str,
    max_tokens: int | None = None,
    lora: Path | None = None,
    edits: bool = False,
    **components: Any,
) -> DiffusionPipeline:
    """Load any diffusers pipeline from a local folder, from safetensors only.

    It leaves out a safety checker: the images that this blackens would count as losses, for one model more often than
    for the other.

    Args:
        max_tokens: tokens of T5 or of a language model; 0 leaves T5 out, and zeros replace its embeddings.
        lora: folder of a LoRA result whose adapters to load.
        edits: whether to draw from start images.
        components: parts already in memory, used in place of the folder's.

    Raises:
        UserError: if max_tokens is given for a model without T5, or is 0 for one that needs T5.
    """
    models.quiet()
    index = files.read_json(str(folder / "model_index.json"))
    if max_tokens is not None or index["_class_name"] in KINDS:
        sized = kinds.kind_of(folder).sized
        if not kinds.text_tokens(folder, max_tokens) and sized:  # diffusers needs the None even without such a folder
            components |= {sized: None, kinds.tokenizer_of(sized): None}
    components |= dict.fromkeys(absent_optional(folder))
    if SAFETY_CHECKER in index:
        components |= {SAFETY_CHECKER: None, "requires_safety_checker": False}
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=dtype, use_safetensors=True, **components)
    if lora:
        load_adapters(pipeline, lora, folder)
    if edits:
        check_edits(folder)
        from diffusers import AutoPipelineForImage2Image  # loads every pipeline: 3 s

        pipeline = AutoPipelineForImage2Image.from_pipe(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def check_edits(folder: Path, flag: str = "--model") -> None:
    """Refuse a model whose image-to-image pipeline does not begin from the noised start image, or that has none.

    Raises:
        UserError: naming the pipeline.
    """
    name = files.read_json(str(folder / "model_index.json"))["_class_name"]
    if name.startswith("Flux2"):
        raise UserError(
            f"{flag} {folder}: a {name} is given images to refer to, and takes no --strength; edit with another model"
        )
    if name == "SanaPipeline":
        raise UserError(f"{flag} {folder}: diffusers has no pipeline that a {name} edits with; edit with another model")


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
    flag: str = "--dtype",
    shape: tuple[int, int] | None = None,
) -> list[Image.Image]:
    """Draw one image per caption.

    Args:
        seeds: [B], one per image; the same seed gives the same noise for every model.
        steps: denoising steps.
        guidance_scale: classifier-free guidance; 1 means none.
        max_tokens: length to which T5's captions, or the zeros that replace them, are cut or padded; by default that
            of diffusers.
        edit: start images, for a pipeline that was loaded with edits.
        refiner: model that takes the last steps, from the latents of the pipeline.
        flag: that chose the arithmetic, for a refusal.
        shape: height and width in pixels; by default the size that the model was made for.

    Raises:
        UserError: if what is decoded is not finite: diffusers would make it black.
    """
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    common: dict[str, Any] = {
        "prompt": list(captions),
        "num_inference_steps": steps,
        "generator": generators,
        **guidance(type(pipeline).__name__, guidance_scale, len(captions)),
        **size_arguments(pipeline, shape),
    }
    options: dict[str, Any] = {"max_sequence_length": max_tokens} if max_tokens else {}
    if edit:
        options |= {"image": list(edit.images), "strength": edit.strength}
    if refiner:
        options |= {"denoising_end": refiner.start, "output_type": "latent"}
    assert callable(pipeline)
    with _finite_only(pipeline, flag):
        drawn = pipeline(**common, **options).images
    if refiner is None:
        return drawn
    assert callable(refiner.pipeline)
    with _finite_only(refiner.pipeline, flag):
        return refiner.pipeline(**common, image=drawn, denoising_start=refiner.start).images


@contextlib.contextmanager
def _finite_only(pipeline: Any, flag: str) -> Iterator[None]:
    """Look at what a pipeline decoded before it becomes whole numbers, where NaN is 0 and infinity 255."""
    processor = getattr(pipeline, "image_processor", None)
    if processor is None:
        yield
        return
    make_images = processor.postprocess

    def checked(image: Any, *arguments: Any, **more: Any) -> Any:
        if isinstance(image, torch.Tensor) and not image.isfinite().all():
            bad = int((~image.isfinite().flatten(1).all(1)).sum())
            raise UserError(
                f"{flag}: {bad} of {len(image)} images are not finite in {_arithmetic(pipeline)} and would be drawn "
                f"black; try {flag} float32, or bfloat16; where it is float32, the model's weights are broken"
            )
        return make_images(image, *arguments, **more)

    processor.postprocess = checked
    try:
        yield
    finally:
        del processor.postprocess


def _arithmetic(pipeline: Any) -> str:
    device = str(getattr(pipeline.device, "type", "cpu"))
    narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else pipeline.dtype
    return str(narrow).removeprefix("torch.")


def check_refiner(folder: Path, refiner: Path, steps: int, start: float, strength: float = 1.0) -> None:
    """Refuse a model that takes no refiner, a refiner that is none, and a start that leaves one of them no step.

    Args:
        folder, refiner: diffusers folders.

    Raises:
        UserError: naming the flag.
    """
    for path, flag, wanted in ((folder, "--model", kinds.REFINED), (refiner, "--refiner", kinds.REFINER)):
        kind = files.read_json(str(path / "model_index.json"))["_class_name"]
        if kind != wanted:
            raise UserError(f"{flag} {path}: a {kind}; a refiner is a {kinds.REFINER}, for a {kinds.REFINED}")
    if not any(_before(folder, steps, start, strength)):
        raise UserError(
            f"--refiner-start {start:g}: leaves the model none of {steps} sampling steps; give a higher one"
        )
    if all(_before(refiner, steps, start)):
        raise UserError(
            f"--refiner-start {start:g}: leaves the refiner none of {steps} sampling steps; give a lower one"
        )


def _before(folder: Path, steps: int, start: float, strength: float = 1.0) -> list[bool]:
    """Return for each denoising step of a folder's scheduler whether it comes before the refiner's start."""
    scheduler = schedules.open_scheduler(folder)[0]
    scheduler.set_timesteps(steps)
    levels = scheduler.config["num_train_timesteps"]
    first = (steps - int(steps * strength)) * scheduler.order
    return [t >= round(levels - start * levels) for t in scheduler.timesteps.tolist()[first:]]
