"""Validation while training (Sec. 5.1): images of held-out captions at fixed seeds, judged by a scorer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from infra.base import files
from labelers.scoring import scorers
from pipelines.drawing.prompts import read_prompts
from pipelines.drawing.sampling import draw_images, image_seed, load_pipeline
from pipelines.latents import store
from pipelines.latents.kinds import kind_of, native_resolution, tokens_of
from pipelines.raw.decode import images_at_once
from training.backbones.backbone import Backbone
from training.settings.config import ValidationConfig

GRID = 16  # images of the sample grid
BATCH = 16  # most images drawn at once: beside the optimizer's state there is little room
SEED = 1


@dataclass(kw_only=True)
class Validator:
    """Draws and judges one rank's share of the validation images."""

    config: ValidationConfig
    captions: list[str]  # all ranks', repeated for each image per caption
    pipeline: Any
    scorer: scorers.Scorer
    rank: int
    world_size: int
    batch_size: int
    autocast: torch.dtype  # of the networks while they draw, as in a step
    max_tokens: int | None = None  # of T5

    def run(self) -> tuple[npt.NDArray[np.float64], list[tuple[int, Image.Image]]]:
        """Draw and score this rank's share.

        Returns:
            [captions] float64 scores, zero where another rank draws, and this rank's images of the sample grid.
        """
        scores = np.zeros(len(self.captions))
        grid: list[tuple[int, Image.Image]] = []
        mine = range(self.rank, len(self.captions), self.world_size)
        for start in range(0, len(mine), self.batch_size):
            part = list(mine)[start : start + self.batch_size]
            captions = [self.captions[i] for i in part]
            seeds = [image_seed(SEED, i, self.captions[i]) for i in part]
            with torch.autocast(self.pipeline.device.type, self.autocast, enabled=self.autocast != torch.float32):
                images = draw_images(
                    self.pipeline,
                    captions,
                    seeds,
                    self.config.sampling_steps,
                    self.config.guidance_scale,
                    self.max_tokens,
                    flag="--precision",
                )
            scores[part] = self.scorer.score(images, captions)
            grid += [(i, image) for i, image in zip(part, images, strict=True) if i < GRID]
        return scores, grid


def make_validator(
    config: ValidationConfig,
    backbone: Backbone,
    network: torch.nn.Module,
    manifest: store.Manifest,
    rank: int,
    world_size: int,
    autocast: torch.dtype,
) -> Validator | None:
    """Make the validator that samples with the network being trained, or None where no captions are given.

    T5 sees as many tokens of a caption as in the store that is trained on.
    """
    if config.validation_prompts is None:
        return None
    captions = read_prompts(files.resolve(config.validation_prompts)) * config.validation_images
    device = next(network.parameters()).device
    tokens = tokens_of(kind_of(backbone.folder), manifest.embeddings)
    parts: dict[str, Any] = {backbone.network_folder: network}
    pipeline = load_pipeline(backbone.folder, torch.float32, str(device), tokens, **parts)
    return Validator(
        config=config,
        captions=captions,
        pipeline=pipeline,
        scorer=scorers.load(config.validation_scorer, config.validation_weights),
        rank=rank,
        world_size=world_size,
        batch_size=images_at_once(native_resolution(backbone.folder), BATCH),
        autocast=autocast,
        max_tokens=tokens,
    )


def paste_grid(images: list[Image.Image], columns: int = 8) -> Image.Image:
    """Paste equally large images into one, row by row."""
    width, height = images[0].size
    canvas = Image.new("RGB", (columns * width, -(-len(images) // columns) * height))
    for index, image in enumerate(images):
        canvas.paste(image, (index % columns * width, index // columns * height))
    return canvas
