"""Human Preference Score v2 (Wu et al. 2023, arXiv 2306.09341): LAION's ViT-H-14 tuned on people's rankings.

The authors' package unpickles its checkpoint and lacks files that it needs. This module reads the same checkpoint
through open_clip (docs/scorers.md). Versions 2.0 and 2.1 are different weights, and their scores do not compare.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from infra.base import (
    torchvision_guard,  # noqa: F401  (before torchvision)
)

import open_clip  # isort: skip
from torchvision.transforms import InterpolationMode  # isort: skip
from torchvision.transforms import functional as transforms  # isort: skip

from labelers.clips import weights
from labelers.clips.alignment import Alignment
from labelers.clips.open_clip_files import OpenClipFiles
from labelers.clips.towers import stacked

# The authors leave antialiasing to torchvision's default. When they trained, tensors were resized without it; since
# torchvision 0.17 the same call antialiases. Their model learned, and their figures were made, without.
ANTIALIAS = False


def preprocess(image: Image.Image, size: int, antialias: bool = ANTIALIAS) -> torch.Tensor:
    """Prepare an image as HPSv2 does: the longest side to size, bicubic on the tensor, centred on a black square.

    Args:
        image: RGB, any size.
        size: side of the result, pixels.
        antialias: whether the resizing antialiases.

    Returns:
        [3, size, size] float32, normalised by OpenAI CLIP's mean and standard deviation.
    """
    return _prepare([image.convert("RGB")], size, antialias)[0]


def _prepare(images: Sequence[Image.Image], size: int, antialias: bool) -> torch.Tensor:
    """Prepare RGB images of one size at once; each comes out as it would alone, to the bit."""
    tensor = stacked(images).permute(0, 3, 1, 2).float().div_(255)
    height, width = tensor.shape[2:]
    if max(height, width) != size:
        scale = size / max(height, width)
        # At least one pixel: of a very long image the authors' code would leave none.
        height = max(1, round(height * scale))
        width = max(1, round(width * scale))
        tensor = transforms.resize(tensor, [height, width], InterpolationMode.BICUBIC, antialias=antialias)
    left = (size - width) // 2
    top = (size - height) // 2
    tensor = transforms.pad(tensor, [left, top, size - width - left, size - height - top])
    return transforms.normalize(tensor, list(open_clip.OPENAI_DATASET_MEAN), list(open_clip.OPENAI_DATASET_STD))


class HPSv2(Alignment):
    """Scores cos(image, caption), -1..1, without CLIP's scale; the leaderboard's 28.16 is 100 times a mean of it."""

    name = "hpsv2"
    checkpoint = "HPS_v2_compressed.pt"
    preprocessing = f"longest side, bicubic, {ANTIALIAS=}, black square"
    antialias = ANTIALIAS

    def __init__(self, wanted: str = weights.WORLD) -> None:
        if wanted == weights.PUBLISHED:
            super().__init__(OpenClipFiles(weights.hub_folder(weights.HPS, [self.checkpoint]) / self.checkpoint))
        else:
            path = weights.local_path(self.name, wanted)
            super().__init__(OpenClipFiles.beside(weights.only_file(path, "*.pt") if path.is_dir() else path))

    def preprocess(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Prepare RGB images as HPSv2 does, [B, 3, S, S] float32."""
        if len({image.size for image in images}) == 1:
            return _prepare(images, self.files.image_size, self.antialias)
        return torch.stack([preprocess(image, self.files.image_size, self.antialias) for image in images])


class HPSv21(HPSv2):
    """The same with the weights of January 2024, tuned on better data."""

    name = "hpsv2.1"
    checkpoint = "HPS_v2.1_compressed.pt"


class HPSv21Antialiased(HPSv21):
    """The same on images resized with antialiasing, as its package does since torchvision 0.17."""

    name = "hpsv2.1-antialiased"
    preprocessing = "longest side, bicubic, ANTIALIAS=True, black square"
    antialias = True
