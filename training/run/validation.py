"""Images drawn while training, at fixed seeds: of held-out captions for a scorer (Sec. 5.1), and of any to look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from infra.base import files
from labelers.scoring import scorers
from pipelines.drawing.image_identity import image_seed
from pipelines.drawing.prompts import read_prompts
from pipelines.drawing.sampling import draw_images, load_pipeline
from pipelines.latents import store
from pipelines.latents.kinds import kind_of, native_resolution, tokens_of
from pipelines.raw.decode import images_at_once
from training.backbones.backbone import Backbone
from training.run.grid import GRID, Placed
from training.settings.config import ValidationConfig

BATCH = 16  # most images drawn at once: beside the optimizer's state there is little room
SEED = 1


@dataclass(kw_only=True)
class Drawer:
    """Draws one rank's share of the images of some captions."""

    config: ValidationConfig
    captions: list[str]  # all ranks', repeated for each image per caption
    pipeline: Any
    rank: int
    world_size: int
    batch_size: int
    autocast: torch.dtype  # of the networks while they draw, as in a step
    max_tokens: int | None = None  # of T5

    def draw(self) -> Iterator[tuple[list[int], list[Image.Image]]]:
        """Yield this rank's images, a batch at a time, with their places among the captions."""
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
            yield part, images

    def grid(self) -> list[Placed]:
        """Draw this rank's share of the first images."""
        return [placed for part, images in self.draw() for placed in _in_grid(part, images)]


@dataclass(kw_only=True)
class Validator:
    """Draws and judges one rank's share of the validation images."""

    drawer: Drawer
    scorer: scorers.Scorer

    def run(self) -> tuple[npt.NDArray[np.float64], list[Placed]]:
        """Draw and score this rank's share.

        Returns:
            [captions] float64 scores, zero where another rank draws, and this rank's images of the sample grid.
        """
        scores = np.zeros(len(self.drawer.captions))
        grid: list[Placed] = []
        for part, images in self.drawer.draw():
            scores[part] = self.scorer.score(images, [self.drawer.captions[i] for i in part])
            grid += _in_grid(part, images)
        return scores, grid


def _in_grid(part: list[int], images: list[Image.Image]) -> list[Placed]:
    return [(i, image) for i, image in zip(part, images, strict=True) if i < GRID]


def make_drawers(
    config: ValidationConfig,
    backbone: Backbone,
    network: torch.nn.Module,
    manifest: store.Manifest,
    rank: int,
    world_size: int,
    autocast: torch.dtype,
) -> tuple[Validator | None, Drawer | None]:
    """Make what draws with the network being trained: the validator, and the drawer of --sample-prompts.

    Each is None where its captions are not given. T5 sees as many tokens of a caption as in the store that is trained
    on.
    """
    device = next(network.parameters()).device
    tokens = tokens_of(kind_of(backbone.folder), manifest.embeddings)
    parts: dict[str, Any] = {backbone.network_folder: network}
    pipeline = load_pipeline(backbone.folder, torch.float32, str(device), tokens, **parts)

    def drawer(captions: list[str]) -> Drawer:
        return Drawer(
            config=config,
            captions=captions,
            pipeline=pipeline,
            rank=rank,
            world_size=world_size,
            batch_size=images_at_once(native_resolution(backbone.folder), BATCH),
            autocast=autocast,
            max_tokens=tokens,
        )

    validator = None
    if config.validation_prompts is not None:
        captions = read_prompts(files.resolve(config.validation_prompts)) * config.validation_images
        scorer = scorers.load(config.validation_scorer, config.validation_weights)
        validator = Validator(drawer=drawer(captions), scorer=scorer)
    if config.sample_prompts is None:
        return validator, None
    return validator, drawer(read_prompts(files.resolve(config.sample_prompts))[:GRID])
