"""Tiny CLIPs with random weights, and images and captions for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from infra.world import scorer_files
from infra.world.vocabulary import build_tokenizer
from labelers.clips.aesthetics import Head

CAPTIONS = [
    "a big red star on a blue background",
    "a small pink ring on a teal background",
    "Something else: ünïcode &amp; 12 words, which the world's tokenizer spells letter by letter.",
    "",
]
SIZES = [(64, 64), (100, 60), (37, 90), (48, 48)]


def images(seed: int = 0) -> list[Image.Image]:
    """Make coarse coloured noise of several sizes and shapes."""
    rng = np.random.default_rng(seed)
    coarse = [Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in SIZES]
    return [image.resize(size, Image.Resampling.BICUBIC) for image, size in zip(coarse, SIZES, strict=True)]


def write_all(folder: Path) -> Path:
    """Write clip, hpsv2, hpsv2.1, pickscore and aesthetics with fresh weights; clip and aesthetics have the same."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    models = {name: scorer_files.build_model(tokenizer) for name in ("clip", "hpsv2", "hpsv2.1", "pickscore")}
    for model in models.values():
        torch.nn.init.normal_(model.text_projection, std=0.3)
        torch.nn.init.normal_(model.token_embedding.weight, std=0.3)
    scorer_files.write_open_clip(folder / "clip", models["clip"], tokenizer)
    scorer_files.write_hps(folder / "hpsv2", models["hpsv2"], tokenizer, "HPS_v2_compressed.pt")
    scorer_files.write_hps(folder / "hpsv2.1", models["hpsv2.1"], tokenizer, "HPS_v2.1_compressed.pt")
    scorer_files.write_transformers(folder / "pickscore", models["pickscore"], tokenizer)
    scorer_files.write_transformers(folder / "aesthetics", models["clip"], tokenizer)
    scorer_files.write_head(folder / "aesthetics", Head(scorer_files.EMBEDDING))
    return folder
