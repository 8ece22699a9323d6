"""Judges images in an environment of its own: the other end of apart.py.

This one file runs under another Python, whose packages this project's need not go with. It needs the standard library,
Pillow and numpy, and what its judge needs; it imports nothing of this project, and runs on Python 3.9 or newer.

Requests come in on stdin: a line of JSON, then the images' RGB bytes. Answers go out as a line of JSON. No pickle.
    {"versions": NAME}                                   -> {"versions": {...}} of the packages that decide its scores
    {"load": NAME, "weights": ...}                       -> {"versions": {...}}, once the judge is loaded
    {"sizes": [[w, h], ...], "captions": [...]} + bytes  -> {"scores": [...]}, null for a score that is not finite
    each may be answered                                 -> {"error": ..., "kind": ...}
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from PIL import Image

Judge = Callable[[Sequence[Image.Image], Sequence[str]], Sequence[float]]

# Commits as public repositories pin them (docs/scorers.md); none was downloaded when this was written.
IMAGE_REWARD = ("THUDM/ImageReward", "5736be03b2652728fb87788c9797b0570450ab72")
HPSV3 = ("MizzenAI/HPSv3", "4f81e3e09edd82fe3c5f636444c721b592a735ca")
PUBLISHED = "published"
NEEDS = {  # distributions whose versions decide a score, by judge
    "imagereward": ("image-reward", "timm", "transformers", "torch", "torchvision"),
    "cyclereward": ("cyclereward", "timm", "transformers", "torch", "torchvision"),
    "hpsv3": ("hpsv3", "qwen-vl-utils", "transformers", "torch", "torchvision"),
}


def image_reward(weights: str) -> Judge:
    """Load ImageReward (Xu et al. 2023, arXiv 2304.05977): (MLP(BLIP(image, caption)) - 0.16717) / 1.03334.

    The package's own loader takes a checkpoint that lacks most of the model without a word; here each tensor must fit.
    Its other scores need a package clip that is not on PyPI, and its trainer a diffusers of the year of transformers;
    an empty module stands in the place of either.
    """
    for absent in ("clip", "ImageReward.ReFL"):
        sys.modules.setdefault(absent, types.ModuleType(absent))
    from ImageReward.ImageReward import ImageReward

    folder = _folder(weights, IMAGE_REWARD, ["ImageReward.pt", "med_config.json"])
    device = _device()
    model = ImageReward(med_config=os.path.join(folder, "med_config.json"), device=device)
    _load_state(model, os.path.join(folder, "ImageReward.pt"))
    model = model.to(device).eval()
    return lambda images, captions: [model.score(caption, image) for image, caption in zip(images, captions)]


def cycle_reward(weights: str) -> Judge:
    """Load CycleReward (Bahng et al. 2025, arXiv 2506.02095): MLP(BLIP(image, caption)), no offset and no scale.

    The package would first fetch BLIP's weights, which the checkpoint then replaces; it is kept from that.
    """
    import torch
    from cyclereward import config
    from cyclereward import model as package

    if weights == PUBLISHED:
        raise ValueError("its weights are no Hub model; fetch them from its releases and give --weights NAME=FOLDER")
    config.cyclereward_args["blip_path"] = ""
    device = _device()
    checkpoint = _only(weights, ".pth")
    kind = os.path.splitext(os.path.basename(checkpoint))[0]
    made = package.CycleReward(
        device=device, model_type=kind, med_config=os.path.join(weights, "med_config.json"), fix_rate=0
    )
    _load_state(made, checkpoint)
    made = made.to(device).eval()

    def judge(images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        scores = []
        for image, caption in zip(images, captions):
            pixels = made.preprocess(image).unsqueeze(0).to(device)
            with torch.inference_mode():
                scores.append(float(made.score(pixels, caption)))
        return scores

    return judge


def hpsv3(weights: str) -> Judge:
    """Load HPSv3 or HPSv3++ (Ma et al. 2025, arXiv 2508.03789): the mean mu of the two numbers that its head gives.

    The two packages have one name, and take images and captions in opposite orders; so both are named.
    """
    import torch
    from hpsv3 import HPSv3RewardInferencer

    path = os.path.join(_folder(weights, HPSV3, ["HPSv3.safetensors"]), "HPSv3.safetensors")
    inferencer = HPSv3RewardInferencer(checkpoint_path=path, device=_device())

    def judge(images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        with torch.inference_mode():
            logits = inferencer.reward(image_paths=list(images), prompts=list(captions))
        return [float(row[0]) for row in logits.float()]

    return judge


JUDGES = {"imagereward": image_reward, "cyclereward": cycle_reward, "hpsv3": hpsv3}


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _folder(weights: str, published: tuple[str, str], names: list[str]) -> str:
    if weights != PUBLISHED:
        return weights
    from huggingface_hub import snapshot_download

    repository, revision = published
    return snapshot_download(repository, revision=revision, allow_patterns=names)


def _only(folder: str, ending: str) -> str:
    names = sorted(name for name in os.listdir(folder) if name.endswith(ending))
    if len(names) != 1:
        raise ValueError(f"{folder}: needs exactly one file {ending}, and has {', '.join(names) or 'none'}")
    return os.path.join(folder, names[0])


def _load_state(model: Any, path: str) -> None:
    """Load a checkpoint of tensors, each of which must fit; positions that BERT computes may be saved or not."""
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    missing, unknown = model.load_state_dict(state, strict=False)
    wrong = [name for name in [*missing, *unknown] if not name.endswith("position_ids")]
    if wrong:
        raise ValueError(f"{path}: not the weights of {type(model).__name__}: {len(wrong)} tensors differ: {wrong[0]}")


def load(name: str, weights: str) -> Judge:
    """Load a judge by its name, or any function from (images, captions) to scores as module:function."""
    if name in JUDGES:
        return JUDGES[name](weights)
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def versions(name: str) -> dict[str, str]:
    """Return the versions that decide a score, by distribution; a judge's own packages must be there."""
    known = {"python": "{}.{}".format(*sys.version_info[:2])}
    for wanted in NEEDS.get(name, ()):
        known[wanted] = importlib.metadata.version(wanted)
    return known


def read_images(stream: BinaryIO, sizes: Sequence[Sequence[int]]) -> list[Image.Image]:
    """Read images of known sizes."""
    images = []
    for width, height in sizes:
        content = stream.read(width * height * 3)
        if len(content) != width * height * 3:
            raise EOFError("the request ended within an image")
        images.append(Image.frombytes("RGB", (width, height), content))
    return images


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value, allow_nan=False).encode() + b"\n")
        answers.flush()

    judge = None
    for line in requests:
        request = json.loads(line)
        try:
            if "sizes" not in request:
                if "load" in request:
                    judge = load(request["load"], request["weights"])
                answer({"versions": versions(request.get("load") or request["versions"])})
                continue
            images = read_images(requests, request["sizes"])
            if judge is None:
                raise ValueError("no judge is loaded")
            scores = [float(score) for score in judge(images, request["captions"])]
            answer({"scores": [score if math.isfinite(score) else None for score in scores]})
        except Exception as error:  # of the judge, which may be anybody's code
            answer({"kind": type(error).__name__, "error": str(error)})


if __name__ == "__main__":
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what packages print goes where errors go, and not among the answers
    serve(sys.stdin.buffer, replies)
