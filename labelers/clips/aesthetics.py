"""LAION's improved aesthetic predictor: five linear layers over the image embedding of CLIP ViT-L/14."""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import constants
from PIL import Image

from infra.base import files
from infra.base.errors import UserError
from labelers.clips import towers, weights
from labelers.clips.transformers_clip import MODEL_FILES, PROCESSOR_FILES, TransformersFiles

# The commit was fetched, and the git hash of its file compared with that of the file that has this SHA-256.
HEAD_URL = (
    "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/6934dd81792f086e613a121dbce43082cb8be85e/"
    "sac%2Blogos%2Bava1-l14-linearMSE.pth"
)
HEAD_SHA256 = "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"


def head_layers(width: int) -> torch.nn.Sequential:
    """Make the head: linear layers with nothing between them, numbered as in training, where dropouts lay between."""
    widths = [width, 1024, 128, 64, 16, 1]
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return torch.nn.Sequential(OrderedDict(zip(["0", "2", "4", "6", "7"], layers, strict=True)))


class Head(torch.nn.Module):
    """The formula: image embeddings of length 1, [B, d], to scores [B], about 1 to 10."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = head_layers(width)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Score embeddings."""
        return self.layers(embeddings).squeeze(-1)


class Aesthetics:
    """Scores how beautiful people would find an image; its caption is not looked at."""

    name = "aesthetics"
    preprocessing = "the processor's, on PIL"
    temperature = None  # its score differences are no logits; where one is needed it is fitted to human labels

    def __init__(self, wanted: str = weights.WORLD) -> None:
        path = None if wanted == weights.PUBLISHED else weights.local_path(self.name, wanted)
        if path is not None and path.is_dir():
            self.files = TransformersFiles(path, path)
            self.head_file = weights.only_file(path, "*.pth")
        else:  # a head without a CLIP beside it belongs to the CLIP that LAION's was trained on
            clip = weights.hub_folder(weights.CLIP_L, [*MODEL_FILES, *PROCESSOR_FILES])
            self.files = TransformersFiles(clip, clip)
            self.head_file = path or published_head()

    def check(self) -> None:
        """Refuse files that are no CLIPModel with a head of its width, with a UserError."""
        self.files.check()
        width = self.files.width
        shapes = weights.shapes(self.head_file)
        model = f"an aesthetic head over {width} numbers"
        weights.require_shapes(shapes, Head(width).state_dict(), self.head_file, model)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash weights, processor and formula."""
        return weights.fingerprint([*self.files.paths(), self.head_file], self.name, self.preprocessing)

    @functools.cached_property
    def tower(self) -> towers.Tower:
        """Load the CLIP, or take it from another scorer that has it."""
        return towers.tower(self.files)

    @functools.cached_property
    def head(self) -> Head:
        """Load the head."""
        head = Head(self.files.width)
        head.load_state_dict(weights.read_state(self.head_file))
        return head.eval().requires_grad_(False).to(towers.device())

    @torch.inference_mode()
    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return [B] float32, about 1 to 10."""
        del captions
        return self.head(self.tower.embed_images(images, self.files.preprocess)).cpu().numpy()


def published_head() -> Path:
    """Return the predictor's own head, downloaded once and accepted only with its known SHA-256.

    Raises:
        UserError: if it is not here and cannot be had.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"aesthetics-{HEAD_SHA256[:16]}.pth"
    if not path.is_file() or files.sha256(str(path)) != HEAD_SHA256:
        if constants.HF_HUB_OFFLINE:
            raise UserError(
                f"{path}: the aesthetic head is not here, and HF_HUB_OFFLINE forbids to download it; "
                "unset it once, or give a local file with --weights"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(HEAD_URL, str(path), hash_prefix=HEAD_SHA256, progress=False)
        except (OSError, RuntimeError) as error:  # no network, or another file than the known one
            raise UserError(f"{HEAD_URL}: cannot be downloaded ({error}); give a local file with --weights") from error
    return path
