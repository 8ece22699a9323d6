"""Scoring pair by pair as the authors' training loop does: DiffusionDPO's train.py and its utils/*_utils.py.

Its --choice_model names one scorer, so several scorers are several loops, and each opens both images of every pair
anew. Its pickscore and aes selectors hand the two images to transformers' processor and model at once, and pickscore
embeds the caption of every pair; its clip and hps selectors run open_clip's whole model, caption too, for each image.
These are the libraries' own classes, at the versions installed here, with preprocessing on PIL as in the authors' days;
HPSv2's preprocessing is ours, because open_clip has none; tests/labelers/scoring/test_scorers.py holds it to the
authors'.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from PIL import Image

from infra.base import (
    torchvision_guard,  # noqa: F401  (before open_clip and transformers)
)

import open_clip  # isort: skip
from transformers import AutoModel, AutoProcessor  # isort: skip

from labelers.clips import human_preference, weights
from labelers.clips.aesthetics import Aesthetics, Head
from labelers.clips.open_clip_files import OpenClipFiles
from labelers.clips.transformers_clip import TransformersFiles
from labelers.scoring import scorers

Selector = Callable[[list[Image.Image], str], list[float]]


def open_both(row: dict[str, Any]) -> list[Image.Image]:
    """Open the two images of a pair."""
    return [Image.open(io.BytesIO(row[name])).convert("RGB") for name in ("jpg_0", "jpg_1")]


def selector(name: str, wanted: str | None) -> Selector:
    """Make a selector of a scorer's weights; a scorer that the authors have not is called as it is, pair by pair."""
    scorer: Any = scorers.load(name, wanted)
    files = getattr(scorer, "files", None)
    if isinstance(files, TransformersFiles):
        return _by_transformers(files, _head(scorer) if isinstance(scorer, Aesthetics) else None)
    if isinstance(files, OpenClipFiles):
        return _by_open_clip(files, scorer)
    return lambda images, caption: list(scorer.score(images, [caption] * 2))


def _head(scorer: Aesthetics) -> Head:
    head = Head(scorer.files.width)
    head.load_state_dict(weights.read_state(scorer.head_file))
    return head.eval()


def _by_transformers(files: TransformersFiles, head: Head | None) -> Selector:
    processor = AutoProcessor.from_pretrained(files.processor, backend="pil")
    model = AutoModel.from_pretrained(files.model).float().eval()
    cut = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}

    @torch.no_grad()
    def score(images: list[Image.Image], caption: str) -> list[float]:
        embedded = model.get_image_features(**processor(images=images, **cut)).pooler_output
        embedded = embedded / torch.norm(embedded, dim=-1, keepdim=True)
        if head is not None:
            return head(embedded).flatten().tolist()
        text = model.get_text_features(**processor(text=caption, **cut)).pooler_output
        text = text / torch.norm(text, dim=-1, keepdim=True)
        return (text @ embedded.T)[0].tolist()

    return score


def _by_open_clip(files: OpenClipFiles, scorer: Any) -> Selector:
    model = open_clip.CLIP(**files.config()["model_cfg"]).eval()
    state = weights.read_state(files.checkpoint)
    model.load_state_dict({key: value for key, value in state.items() if not key.endswith(weights.BUFFERS)})
    tokenizer = open_clip.get_tokenizer(f"local-dir:{files.described}" if files.described else "ViT-H-14")

    prepare: Callable[[Image.Image], torch.Tensor] = files.transform()
    if isinstance(scorer, human_preference.HPSv2):
        prepare = partial(human_preference.preprocess, size=files.image_size)

    @torch.no_grad()
    def score(images: list[Image.Image], caption: str) -> list[float]:
        scores = []
        for image in images:
            embedded, text, _ = model(prepare(image)[None], tokenizer([caption]))
            scores.append(torch.diagonal(embedded @ text.T).item())
        return scores

    return score
