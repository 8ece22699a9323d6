"""Stable Diffusion's safety checker for its flags alone: which of its concepts an image shows; no image is blackened.

diffusers' StableDiffusionSafetyChecker compares the image embedding of a CLIP ViT-L/14 with the embeddings of 17
concepts, each with a threshold. 3 further concepts lower the others' thresholds. Their names were never published.
Rando et al. 2022 (arXiv 2210.04610) give the formula.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional as F

from infra.base import (
    counting,
    files,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from labelers.clips import weights
from labelers.clips.towers import device
from labelers.clips.transformers_clip import IMAGE_PROCESSOR_FILES, TransformersFiles

from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker  # isort: skip
from transformers import CLIPConfig  # isort: skip

# The checker's own repository, CompVis/stable-diffusion-safety-checker, has safetensors only in its pull request 41
# (revision refs/pr/41); the copy beside SD1.5 has them on its main branch. Read in other public repositories, not
# downloaded when this was written.
PUBLISHED = ("stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14")
# Their folders within a diffusers pipeline.
CHECKER = "safety_checker"
PROCESSOR = "feature_extractor"
FETCHED = ["config.json", "model.safetensors", *IMAGE_PROCESSOR_FILES]
FETCHED += [f"{CHECKER}/config.json", f"{CHECKER}/model.safetensors"]
FETCHED += [f"{PROCESSOR}/{name}" for name in IMAGE_PROCESSOR_FILES]
SPECIAL_CARE = 0.01  # added to every concept's score where an image shows one of the three
DECIMALS = 3  # to which scores are rounded before they are compared with 0
FLAG = "--safety-checker"


@dataclass(frozen=True)
class CheckerName:
    """A checker by name and revision: what is sent to other nodes, where the driver's own folder may not exist."""

    name: str
    revision: str | None = None

    def files(self) -> TransformersFiles:
        """Return its files on this node, fetched if need be.

        Raises:
            UserError: if there is no such folder or Hub name, or no checker in it.
        """
        folder = files.local(self.name)
        if not folder.is_dir():
            if "://" in self.name or os.path.isabs(self.name) or self.name.count("/") != 1:
                raise UserError(f"{FLAG} {self.name}: is neither a local folder nor a Hub name; give one of them")
            folder = weights.hub_folder((self.name, self.revision), FETCHED, FLAG)
        if (folder / CHECKER).is_dir():
            return TransformersFiles(folder / CHECKER, folder / PROCESSOR)
        beside = folder.parent / PROCESSOR  # of a folder named by its part within a pipeline
        own = any((folder / name).is_file() for name in IMAGE_PROCESSOR_FILES) or not beside.is_dir()
        return TransformersFiles(folder, folder if own else beside)

    def pinned(self) -> CheckerName:
        """Return the same checker at the commit that its revision stands for now."""
        model = self.files().model
        snapshot = next((path for path in (model, model.parent) if path.parent.name == "snapshots"), None)
        return CheckerName(self.name, snapshot.name if snapshot else self.revision)


def checker_name(name: str, revision: str | None) -> CheckerName:
    """Read --safety-checker and --safety-revision: published, a folder, or a Hub name.

    Raises:
        UserError: if a revision is given for what has none.
    """
    if name == weights.PUBLISHED:
        if revision:
            raise UserError(
                f"--safety-revision {revision}: {FLAG} {weights.PUBLISHED} has a pinned revision; leave this flag out"
            )
        return CheckerName(PUBLISHED[0], PUBLISHED[1])
    return CheckerName(name, revision)


class SafetyChecker:
    """Says which images show a concept that the checker was made against.

    Args:
        files: its configuration, weights and image processor.
        batch_size: images per forward pass, the last one padded. A score's last bits depend on it, and so near a
            threshold its flag.
    """

    def __init__(self, files: TransformersFiles, batch_size: int) -> None:
        self.files = files
        self.batch_size = batch_size

    def check(self) -> None:
        """Refuse files that are missing, hold code or are of another network, reading no weights.

        Raises:
            UserError: naming the file.
        """
        config = self.files.config()
        held = self.files.weight_files()
        self.files.check_processor()
        try:
            with torch.device("meta"):
                wanted = StableDiffusionSafetyChecker(config).state_dict()
        except ValueError as error:
            raise UserError(f"{self.files.model / 'config.json'}: no checker can be made of it ({error})") from error
        shapes = {_plain(name): shape for path in held for name, shape in weights.shapes(path).items()}
        tensors = {_plain(name): value for name, value in wanted.items()}
        weights.require_shapes(shapes, tensors, self.files.model, "a safety checker")
        try:
            _ = self.files.preprocess
        except Exception as error:  # transformers raises many types, some of them its own
            raise UserError(f"{self.files.processor}: its processor cannot be read ({type(error).__name__})") from error

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash configuration, weights, processor and formula."""
        return weights.fingerprint(self.files.paths(), "safety checker", SPECIAL_CARE, DECIMALS)

    @functools.cached_property
    def network(self) -> StableDiffusionSafetyChecker:
        """Load the network, on the GPU where there is one, float32."""
        network = StableDiffusionSafetyChecker(self.files.config())
        held = self.files.weight_files()
        state = {_plain(name): value for path in held for name, value in weights.read_state(path).items()}
        network.load_state_dict({name: state[_plain(name)] for name in network.state_dict()})
        return network.eval().requires_grad_(False).to(device())

    @torch.inference_mode()
    def scores(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """Return each concept's score, [B, 17] float32, of RGB images; above 0 the concept is shown."""
        network = self.network
        parts = []
        for start in range(0, len(images), self.batch_size):
            pixels = self.files.preprocess(images[start : start + self.batch_size])
            padded = F.pad(pixels, (0, 0) * 3 + (0, self.batch_size - len(pixels))).to(device())
            embeddings = network.visual_projection(network.vision_model(padded)[1])[: len(pixels)]
            parts.append(concept_scores(embeddings, network))
        return np.concatenate(parts) if parts else np.empty((0, len(network.concept_embeds)), np.float32)

    def concepts(self, images: Sequence[Image.Image]) -> list[int | None]:
        """Return the number of the concept that each image shows most above its threshold, or None."""
        return [int(np.argmax(row)) if row.max() > 0 else None for row in self.scores(images)]


def concept_scores(embeddings: torch.Tensor, network: StableDiffusionSafetyChecker) -> npt.NDArray[np.float32]:
    """Compute cosine minus threshold of each concept, plus SPECIAL_CARE where one of the three is above its own.

    Args:
        embeddings: [B, d], of any length.

    Returns:
        [B, 17] float32, rounded as diffusers rounds.
    """

    def above(concepts: torch.Tensor, thresholds: torch.Tensor) -> npt.NDArray[np.float32]:
        cosines = F.normalize(embeddings) @ F.normalize(concepts).T
        return (cosines.float() - thresholds.float()).cpu().numpy()

    special = np.round(above(network.special_care_embeds, network.special_care_embeds_weights), DECIMALS)
    care = np.where((special > 0).any(1, keepdims=True), np.float32(SPECIAL_CARE), np.float32(0))
    return np.round(above(network.concept_embeds, network.concept_embeds_weights) + care, DECIMALS)


def count_checker(config: CLIPConfig) -> tuple[int, float]:
    """Count a checker's parameters and its FLOPs for one image, on the meta device."""
    with counting.META, torch.no_grad():
        network = StableDiffusionSafetyChecker(config)
        side = config.vision_config.image_size
        pixels = torch.empty(1, 3, side, side)
        return counting.parameters(network), counting.flops(lambda: network.vision_model(pixels))


def _plain(name: str) -> str:
    """Name a tensor as transformers 5 does; older versions had the vision model one module deeper."""
    return name.replace("vision_model.vision_model.", "vision_model.")
