"""Drawing images with a diffusers pipeline, each from its own start noise, whatever the batch it is drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from infra import (
    files,
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)

from diffusers import DiffusionPipeline  # isort: skip

from pipelines import kinds
from pipelines.pairs import hash64

SAFETY_CHECKER = "safety_checker"


def load_pipeline(
    folder: Path,
    dtype: torch.dtype,
    device: str,
    max_tokens: int | None = None,
    lora: Path | None = None,
    **components: Any,
) -> DiffusionPipeline:
    """Load any diffusers pipeline from a local folder, safetensors only; components in memory replace its own.

    A safety checker is left out: the images it blackens would count as losses, more for one model than for the other.

    Args:
        max_tokens: of T5; 0 leaves it out, and zeros take its place.
        lora: folder of a LoRA result, whose adapters are added.

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
) -> list[Image.Image]:
    """Draw one image per caption.

    Args:
        seeds: [B], each image's own; the same seed and caption start from the same noise for every model.
        steps: denoising steps.
        guidance_scale: classifier-free guidance; 1 means none.
        max_tokens: to which T5's captions are cut or padded; diffusers' own number by default, and of the zeros in
            place of a T5 that was left out.
    """
    options = {"max_sequence_length": max_tokens} if max_tokens else {}
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    assert callable(pipeline)
    return pipeline(
        prompt=list(captions),
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        generator=generators,
        **options,
    ).images
