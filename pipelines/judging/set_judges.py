"""Judge the images of a folder as a whole: diversity, and KID against true images. Neither reads the captions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from infra.base import tables
from pipelines.drawing.image_sets import image_files
from pipelines.judging.win_rate import diversity
from pipelines.latents import autoencoders, kinds
from pipelines.raw.decode import decode_image, images_at_once

BATCH = 64  # images encoded at once, at most
KID_SUBSETS = 50
KID_SUBSET_SIZE = 200
KID_LEAST = 4  # images on each side; these give two different subsets of two


class LatentFeatures:
    """The features of KID and diversity: the flattened latent means of a VAE.

    Inception, the usual network, has no weights that are there without a download.
    """

    def __init__(self, folder: Path) -> None:
        side = autoencoders.vae_config(folder).get("sample_size")  # which some VAEs' settings do not have
        self.resolution: int = side or kinds.native_resolution(folder)
        self.batch_size = images_at_once(self.resolution, BATCH)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.vae = autoencoders.load_vae(folder, torch.float32).to(self.device)

    @torch.inference_mode()
    def encode(self, contents: list[bytes]) -> npt.NDArray[np.float32]:
        """Map encoded images to [B, d] float32."""
        pixels = np.stack([decode_image(content, self.resolution) for content in contents])
        scaled = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device).float() / 127.5 - 1
        return autoencoders.posterior(self.vae, scaled)[0].flatten(1).cpu().numpy()

    def of(self, folder: str) -> tuple[npt.NDArray[np.float32], list[str]]:
        """Encode a folder of images; memory holds one batch at a time.

        Returns:
            Features [n, d] float32 in the order of image_id, and each image's caption.
        """
        ids: list[int] = []
        captions: list[str] = []
        parts: list[npt.NDArray[np.float32]] = []
        for path in image_files(folder):
            for batch in tables.batches(path, ["image_id", "caption", "image"], self.batch_size):
                ids += batch["image_id"].to_pylist()
                captions += batch["caption"].to_pylist()
                parts.append(self.encode(batch["image"].to_pylist()))
        order = np.argsort(ids)
        return np.concatenate(parts)[order], [captions[index] for index in order]


def judge_set(
    features: npt.NDArray[np.float32], captions: list[str], true: npt.NDArray[np.float32] | None
) -> dict[str, Any]:
    """Judge the images of a folder as a whole by their features.

    Args:
        features: [n, d], one row per image.
        captions: [n].
        true: [m, d] features of true images.

    Returns:
        images: their number. Where a prompt has two, diversity: the mean distance within a prompt. With true images,
        kid and kid_std: mean and standard deviation over subsets (Binkowski et al. 2018, unbiased, cubic kernel).
    """
    numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
    judged: dict[str, Any] = {"images": len(captions)}
    spread = diversity(features, np.array([numbers[caption] for caption in captions]))
    if spread is not None:
        judged["diversity"] = spread
    if true is not None and min(len(true), len(features)) >= KID_LEAST:
        mean, deviation = kid(features, true)
        judged |= {"kid": mean, "kid_std": deviation}
    return judged


def kid(features: npt.NDArray[np.float32], true: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Compute KID of features [n, d] against true ones [m, d]: mean and standard deviation over subsets."""
    from torchmetrics.image.kid import KernelInceptionDistance  # after the guard: it imports torchvision

    torch.manual_seed(0)  # KID draws its subsets from torch's generator
    size = min(KID_SUBSET_SIZE, len(features) // 2, len(true) // 2)  # subsets of all images would be equal
    with warnings.catch_warnings():  # it warns of the memory for all features, which are here already
        warnings.filterwarnings("ignore", message=".*will save all extracted features in buffer")
        measure = KernelInceptionDistance(feature=torch.nn.Identity(), subset_size=size, subsets=KID_SUBSETS)
    measure.update(torch.from_numpy(true), real=True)
    measure.update(torch.from_numpy(features), real=False)
    mean, deviation = measure.compute()
    return float(mean), float(deviation)
