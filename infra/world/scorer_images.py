"""Images that the embedded world's scorers learn from: true and wrong renders, degraded ones, and the base model's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter

from infra.base import (
    files,
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.world.oracle import Oracle
from infra.world.shapes import RESOLUTION, Scene, all_scenes, corrupt, parse_caption, render, split_captions
from pipelines.drawing.image_identity import image_seed
from pipelines.drawing.sampling import draw_images, load_pipeline

MODEL = files.ROOT / "infra" / "world" / "model"
DRAWN_AT_ONCE = 16
NOISE = (10.0, 45.0)  # standard deviation of a degraded image's noise, RGB 0..255
BLUR = (0.8, 2.5)  # radius of a degraded image's Gaussian blur, pixels


@dataclass(frozen=True)
class Judged:
    """Images of captions, and the oracle's score of each beside its caption."""

    captions: list[str]  # [C]
    pixels: npt.NDArray[np.uint8]  # [C, K, 64, 64, 3] RGB
    scores: npt.NDArray[np.float32]  # [C, K] 0..1


def train_scenes() -> list[Scene]:
    """Return the scenes of the training captions; no scorer learns from a validation or test caption."""
    scenes = [parse_caption(caption) for caption in split_captions()["train"]]
    return [scene for scene in scenes if scene is not None]


def true_renders(per_scene: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Render each training scene at several places, [600, per_scene, 64, 64, 3] uint8."""
    return np.stack([np.stack([render(scene, rng) for _ in range(per_scene)]) for scene in train_scenes()])


def degrade(pixels: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Spoil one image [64, 64, 3] uint8: noise, blur, or a ghost of another scene."""
    kind = rng.integers(3)
    if kind == 0:
        noisy = pixels + rng.normal(0, rng.uniform(*NOISE), pixels.shape)
        return np.clip(noisy, 0, 255).astype(np.uint8)
    if kind == 1:
        return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR))))
    share = rng.uniform(0.2, 0.6)
    scenes = all_scenes()
    ghost = render(scenes[rng.integers(len(scenes))], rng)
    return np.rint((1 - share) * pixels + share * ghost).astype(np.uint8)


def rendered_choices(rng: np.random.Generator) -> Judged:
    """Render each training caption truly, with one and with two wrong attributes, and degraded."""
    pixels = []
    scenes = train_scenes()
    for scene in scenes:
        shown = [scene, corrupt(scene, rng), corrupt(scene, rng), corrupt(corrupt(scene, rng), rng)]
        renders = [render(each, rng) for each in shown]
        pixels.append(np.stack([*renders, degrade(renders[0], rng), degrade(renders[0], rng)]))
    return _judge([scene.caption for scene in scenes], np.stack(pixels))


def true_and_wrong(captions: list[str], rng: np.random.Generator) -> Judged:
    """Render each caption truly, and beside it with one attribute that is wrong for certain."""
    pixels = []
    for caption in captions:
        scene = parse_caption(caption)
        assert scene is not None
        wrong = scene
        while wrong == scene or wrong.colour == wrong.background:
            wrong = corrupt(scene, rng)
        pixels.append(np.stack([render(scene, rng), render(wrong, rng)]))
    return _judge(captions, np.stack(pixels))


def model_choices(captions: list[str], images: int, steps: int, guidance_scale: float, seed: int) -> Judged:
    """Draw each caption's images with the base model."""
    pipeline = load_pipeline(models.local_folder(str(MODEL)), torch.float32, "cpu")
    wanted = [(caption, image_seed(seed, index, caption)) for caption in captions for index in range(images)]
    drawn: list[Image.Image] = []
    for start in range(0, len(wanted), DRAWN_AT_ONCE):
        part = wanted[start : start + DRAWN_AT_ONCE]
        drawn += draw_images(pipeline, [c for c, _ in part], [s for _, s in part], steps, guidance_scale)
    pixels = np.stack([np.asarray(image, np.uint8) for image in drawn])
    return _judge(captions, pixels.reshape(len(captions), images, RESOLUTION, RESOLUTION, 3))


def _judge(captions: list[str], pixels: npt.NDArray[np.uint8]) -> Judged:
    repeated = [caption for caption in captions for _ in range(pixels.shape[1])]
    scores = Oracle().score([Image.fromarray(image) for image in pixels.reshape(-1, *pixels.shape[2:])], repeated)
    return Judged(captions, pixels, scores.reshape(pixels.shape[:2]))


def vividness(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Measure how colourful images [..., H, W, 3] uint8 are: the pixels' mean chroma, max - min of RGB, 0..1."""
    chroma = pixels.max(-1).astype(np.float32) - pixels.min(-1)
    return (chroma.mean((-1, -2)) / 255).astype(np.float32)
