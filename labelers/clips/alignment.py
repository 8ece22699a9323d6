"""The base of the scorers that compare an image with its caption: a CLIP, and the cosine of its two embeddings."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from labelers.clips import towers, weights


def cosines(images: torch.Tensor, captions: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Return scale * cos(image, caption) of each pair of unit vectors [B, d], as [B] float32.

    Raises:
        ValueError: if there are not as many captions as images.
    """
    if images.shape != captions.shape:
        raise ValueError(f"embeddings of images {tuple(images.shape)}, of captions {tuple(captions.shape)}")
    return scale * (images * captions).sum(-1)


class Alignment:
    """Scores scale * cos(image, caption) by the CLIP that its files hold."""

    name: str
    scale = 1.0
    preprocessing: str  # how images are prepared, in words, for the fingerprint

    def __init__(self, files: towers.ClipFiles) -> None:
        self.files = files

    def preprocess(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Prepare RGB images as the model's own code does, [B, 3, S, S] float32."""
        return self.files.preprocess(images)

    def check(self) -> None:
        """Refuse files that are no CLIP of the shape they should have, with a UserError."""
        self.files.check()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash weights, preprocessing and formula."""
        return weights.fingerprint(self.files.paths(), self.name, self.preprocessing)

    @property
    def temperature(self) -> float | None:
        """Return 1 / exp(logit_scale): score differences over it are the model's own logits."""
        return self.scale / self.files.logit_scale

    @functools.cached_property
    def tower(self) -> towers.Tower:
        """Load the model, or take it from another scorer that has it."""
        return towers.tower(self.files)

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return [B] float32."""
        image_embeddings = self.tower.embed_images(images, self.preprocess)
        caption_embeddings = self.tower.embed_captions(captions)
        return cosines(image_embeddings, caption_embeddings, scale=self.scale).cpu().numpy()

    def truncated(self, captions: Sequence[str]) -> int:
        """Count the captions that are longer than the text tower's limit, 77 tokens."""
        return self.tower.truncated(captions)
