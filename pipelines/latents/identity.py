"""What decides a model folder's outputs, hashed part by part: two identities are equal exactly when these are.

A part's identity is that of its tensors' values under the names that its class knows, and of the settings that differ
from the class's defaults. So the same weights saved again by a newer library, in other names or another precision that
holds them exactly, or with defaults written out, are the same; a tokenizer or a scheduler with another setting is not.

Fingerprints of the first rule (models.fingerprint) hash files and settings as they lie on disk. Stores, images and runs
that hold such are compared by that rule.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from infra.base import (
    files,
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from pipelines.latents import components, weight_files

import transformers  # isort: skip

RULE = "2:"  # before a fingerprint of this rule; those of the first have nothing before them
SCHEDULER = "scheduler"
PIPELINE = "pipeline"
# What says where, when or for which arithmetic a part was saved, and what only training looks at.
NOT_DECIDING = ("architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "output_attentions")
PROBES = ("", "a", "A Photo of 2 CATS, by the sea!", "naïve café  ☕ 日本語", "don't re-do it's-a-test_" * 20)


def fingerprints(folder: Path, parts: Collection[str]) -> dict[str, str]:
    """Return the fingerprint of each part, and of each text encoder's tokenizer.

    Raises:
        UserError: if a part cannot be opened.
    """
    tokenizers = [part.replace("text_encoder", "tokenizer") for part in parts if part.startswith("text_encoder")]
    return {part: fingerprint(folder, part) for part in (*parts, *tokenizers)}


def of_whole_model(folder: Path) -> dict[str, str]:
    """Return the fingerprints of all that decides a pipeline's images: networks, tokenizers, scheduler, flags."""
    parts = [part for part in weight_files.opened_parts(folder) if part != "safety_checker"]
    found = fingerprints(folder, parts)
    if SCHEDULER in components.parts_of(folder):
        found[SCHEDULER] = fingerprint(folder, SCHEDULER)
    index = components.read_index(folder)
    flags = {name: value for name, value in index.items() if not isinstance(value, list) and not name.startswith("_")}
    flags.pop("requires_safety_checker", None)
    found[PIPELINE] = RULE + _hash({"class": index["_class_name"]} | flags)
    return found


def is_old(stored: str | None) -> bool:
    """Say whether a fingerprint was made by the first rule."""
    return stored is not None and not stored.startswith(RULE)


def like(stored: str | None, folder: Path, part: str) -> str:
    """Return a part's fingerprint by the rule that a stored one was made by."""
    return models.fingerprint(folder, part) if is_old(stored) else fingerprint(folder, part)


def differing(stored: Mapping[str, str], folder: Path, parts: Collection[str]) -> dict[str, tuple[str | None, str]]:
    """Return the parts whose stored fingerprint is not the folder's, with both.

    What the first rule did not look at, tokenizers and scheduler, cannot be compared then.
    """
    old = any(is_old(value) for value in stored.values())
    wanted = parts if old else fingerprints(folder, parts)
    pairs = {part: (stored.get(part), like(stored.get(part), folder, part)) for part in wanted}
    return {part: both for part, both in pairs.items() if both[0] != both[1]}


@functools.cache
def say_once(path: str) -> None:
    """Say that something was made when fingerprints did not look at tokenizers and schedulers."""
    print(
        f"{path}: was made by an earlier version, whose fingerprints leave out tokenizer and scheduler; these two are "
        "not compared",
        file=sys.stderr,
        flush=True,
    )


def fingerprint(folder: Path, part: str) -> str:
    """Hash what decides a part's outputs.

    Raises:
        UserError: if its files cannot be opened by its class.
    """
    stamps = tuple(files.stamps(str(folder / part)))
    return _fingerprint(folder, part, stamps, json.dumps(components.parts_of(folder).get(part)))


@functools.lru_cache(maxsize=64)
def _fingerprint(folder: Path, part: str, stamps: tuple[Any, ...], kind: str) -> str:
    """Hash a part once in this process for as long as its files stay as they are."""
    del stamps, kind
    if part.startswith("tokenizer"):
        return RULE + _hash(_tokenizer(folder, part))
    digest = hashlib.sha256(_hash(_settings(folder, part)).encode())
    if part != SCHEDULER:
        for name, content in sorted(_tensors(folder, part).items()):
            digest.update(f"{name} {content}\n".encode())
    return RULE + digest.hexdigest()


def _settings(folder: Path, part: str) -> dict[str, Any]:
    """Return the settings that are not the class's defaults, with the class."""
    kind = components.class_of(folder, part)
    settings = components.settings(folder, part)
    if issubclass(kind, transformers.PreTrainedModel):
        defaults = kind.config_class().to_dict()
    else:
        defaults = components.defaults(kind)
    chosen = {
        name: value
        for name, value in settings.items()
        if name in defaults and value != defaults[name] and name[0] != "_"
    }
    return {"class": kind.__name__} | {name: chosen[name] for name in chosen if name not in NOT_DECIDING}


def _tensors(folder: Path, part: str) -> dict[str, str]:
    """Hash each tensor that the class takes, by the class's name for it; a tied one counts once."""
    opened = weight_files.open_headers(folder, part)
    taken = opened.tensors
    names: dict[tuple[Path, str], str] = {}
    for name, place in taken.items():
        names.setdefault(place, name.removeprefix("text_model."))  # which transformers 5.6 left out
    hashes = {}
    for path in sorted({path for path, _ in names}):
        with safe_open(path, framework="pt") as file:
            for place, name in names.items():
                if place[0] == path:
                    hashes[name] = _hash_values(file.get_tensor(place[1]))
    tied = [name for name, other in opened.tied.items() if name in hashes and hashes[name] == hashes.get(other)]
    return {name: content for name, content in hashes.items() if name not in tied}


def _hash_values(tensor: torch.Tensor) -> str:
    """Hash a tensor's shape and values, whatever the precision that holds them: float32 holds all narrower."""
    narrow = tensor.is_floating_point() and tensor.dtype != torch.float64
    values = tensor.float() if narrow else tensor
    digest = hashlib.sha256(repr((tuple(tensor.shape), str(values.dtype))).encode())
    digest.update(np.ascontiguousarray(values.numpy()).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _tokenizer(folder: Path, part: str) -> dict[str, Any]:
    """Return what decides a caption's token ids: vocabulary, merges, special tokens, lengths; and some ids."""
    tokenizer = components.open_tokenizer(folder, part)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = json.loads(backend.to_str())["model"] if backend is not None else {}
    length = min(int(tokenizer.model_max_length), 1 << 12)
    encoded = tokenizer(list(PROBES), padding="max_length", truncation=True, max_length=min(length, 77)).input_ids
    template = getattr(tokenizer, "chat_template", None)
    return ({"template": template} if template else {}) | {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "merges": model.get("merges"),
        "scores": model.get("vocab") if isinstance(model.get("vocab"), list) else None,
        "special": {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items())},
        "sides": [tokenizer.padding_side, tokenizer.truncation_side],
        "length": length,
        "ids": encoded,
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
