"""What decides a folder's images, so that two folders can be told apart and one can be gone on with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infra.base import files, models
from pipelines.drawing.generate_config import GenerateConfig
from pipelines.raw.pairs import hash64

SAFETY_CHECKER = "safety_checker"  # a part of pipelines that decides no image
# What does not change an image; captions and other models are told by their hashes, not by where they stood.
OTHER_FLAGS = (
    "gallery",
    "samplers",
    "batch_size",
    "output",
    "prompts",
    "limit",
    "init_images",
    "refiner",
    "negative_model",
)

# Left out of an identity where they are None or false, so that images of before such a flag are still the same.
NEWER_FLAGS = ("max_tokens", "lora", "strength", "refiner_start", "buckets")


def image_identity(
    config: GenerateConfig,
    folder: Path,
    captions: Sequence[str],
    lora: Path | None = None,
    refiner: Path | None = None,
    starts: str | None = None,
    before: Mapping[str, Any] | None = None,
    negative: Path | None = None,
    shapes: str | None = None,
) -> dict[str, Any]:
    """Return what decides a folder's images: flags, weights' fingerprints, hashes of captions and start images.

    Args:
        folder, refiner, negative: diffusers folders.
        starts: the start images' hash.
        shapes: the hash of the shapes that captions are drawn in, where they have shapes of their own.
        before: the identity to be compared with, whose fingerprints may be of an earlier rule.
    """
    from pipelines.latents import identity as model_identity  # which loads the libraries of networks
    from pipelines.latents import peft_files

    is_old = any(model_identity.is_old(value) for value in (before or {}).get("fingerprints", {}).values())
    fingerprints_of = _old_fingerprints if is_old else model_identity.of_whole_model
    identity = {name: value for name, value in asdict(config).items() if name not in OTHER_FLAGS}
    for name in NEWER_FLAGS:
        if identity[name] is None or identity[name] is False:
            del identity[name]
    identity["captions"] = captions_hash(captions)
    if starts:
        identity["init_images"] = starts
    if shapes:
        identity["shapes"] = shapes
    if refiner:
        identity["refiner"] = fingerprints_of(refiner)
    if negative:
        identity["negative_model"] = fingerprints_of(negative)
    fingerprints = dict(fingerprints_of(folder))
    if lora:
        fingerprints["lora"] = ("" if is_old else model_identity.RULE) + files.sha256(str(lora / models.ADAPTERS))
        settings = peft_files.settings_of(lora)
        if settings is not None:
            fingerprints["lora"] += f" {files.sha256(str(settings))}"
    return identity | {"fingerprints": fingerprints}


def captions_hash(captions: Sequence[str]) -> str:
    """Return the SHA-256 of captions in their order."""
    return hashlib.sha256(json.dumps(list(captions)).encode()).hexdigest()


def _old_fingerprints(folder: Path) -> dict[str, str]:
    parts = sorted({path.parent.name for path in folder.glob("*/*.safetensors")} - {SAFETY_CHECKER})
    return {name: models.fingerprint(folder, name) for name in parts}


def image_seed(seed: int, index: int, caption: str) -> int:
    """Return the 32-bit seed of an image's noise, a function of run seed, image index and caption, not of the model."""
    return hash64(b"image", f"{seed}/{index}".encode(), caption.encode("utf-8", "surrogatepass")) % (1 << 32)
