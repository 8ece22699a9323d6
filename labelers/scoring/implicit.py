"""The implicit scorer: the implicit reward of a Diffusion-DPO model over its reference (Wallace et al. 2023, S4.1).

    r(image, caption) = -(beta/2) * mean over draws of (e_policy - e_reference)

A constant that depends on the caption alone is left out; it cancels when two images of that caption are compared. The
caption is the key of the draws, so both slots of a pair share their timesteps and noise. No caption is dropped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from infra.base import files, models
from labelers.scoring.implicit_folders import Folders
from pipelines.latents import autoencoders, encoders, identity, kinds
from pipelines.latents.buckets import Shape, nearest
from pipelines.latents.captions import CaptionEncoder
from pipelines.raw import pairs
from pipelines.raw.decode import images_at_once, shaped_pixels
from training.backbones.backbone import Backbone, open_backbone
from training.backbones.schedule_config import ScheduleConfig
from training.layout import base_precision
from training.method import forward, objectives
from training.method.batch import Images
from training.method.draws import REWARD_DRAWS, REWARD_SEED, draw
from training.method.policy import load_adapters

BATCH = 32  # images in one forward pass, at most


@dataclass(frozen=True, kw_only=True)
class Models:
    """The loaded networks, and the store's own steps, which make of an image the latent that training reads."""

    backbone: Backbone
    networks: tuple[torch.nn.Module, torch.nn.Module]  # policy, reference
    images: encoders.LatentEncoder
    text: CaptionEncoder
    device: torch.device
    batch: int  # images in one forward pass
    autocast: torch.dtype  # that training computed packed weights in; float32 is none

    @classmethod
    def load(cls, folders: Folders) -> Models:
        """Load everything from local folders."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        batch = images_at_once(folders.resolution, BATCH)
        backbone = open_backbone(folders.reference, folders.schedule)
        reference = models.Model(str(folders.reference))
        policy = open_backbone(folders.policy, folders.schedule).load_network()
        if folders.lora:
            load_adapters(policy, folders.lora, backbone.network_folder)
        own = folders.base_precision
        networks = (policy.requires_grad_(False), backbone.load_network().requires_grad_(False))
        return cls(
            backbone=backbone,
            networks=(base_precision.lower(networks[0], own, device), base_precision.lower(networks[1], own, device)),
            # The posterior's mean, not a sample: a score must not depend on chance.
            images=encoders.LatentEncoder(reference, folders.resolution, "mean", False, 0, batch, "float32"),
            text=CaptionEncoder(reference, BATCH, "float32", folders.max_tokens),
            device=device,
            batch=batch,
            autocast=torch.bfloat16 if own in base_precision.PACKED else torch.float32,
        )


class Implicit:
    """Scores how much likelier than its reference a policy finds an image for its caption."""

    temperature: float | None = None

    def __init__(self, weights: str) -> None:
        self.weights = weights

    def check(self) -> None:
        """Refuse weights that are no policy and reference of one kind.

        Raises:
            UserError: in one sentence.
        """
        _ = self.folders

    @cached_property
    def folders(self) -> Folders:
        """Find the folders of policy and reference."""
        return Folders.find(self.weights)

    @cached_property
    def fingerprint(self) -> str:
        """Hash both networks, the frozen components, the draws and beta."""
        folders = self.folders
        network = kinds.kind_of(folders.reference).network
        decisive = [*identity.fingerprints(folders.reference, (*folders.frozen, network)).values()]
        decisive += [identity.fingerprint(folders.policy, network), f"{REWARD_DRAWS}/{REWARD_SEED}/{folders.beta}"]
        if folders.lora:
            decisive.append(files.sha256(str(folders.lora / models.ADAPTERS)))
        settings = (folders.schedule, folders.max_tokens, folders.resolution)
        if settings != (ScheduleConfig(), None, kinds.native_resolution(folders.reference)):
            decisive.append("/".join(map(str, settings)))
        if folders.base_precision != "float32":
            decisive.append(folders.base_precision)
        if folders.buckets:
            decisive.append(str(folders.buckets))
        return hashlib.sha256("/".join(decisive).encode()).hexdigest()

    @cached_property
    def loaded(self) -> Models:
        """Load both networks and the frozen components, once."""
        return Models.load(self.folders)

    def truncated(self, captions: Sequence[str]) -> int:
        """Count the captions that are too long for every text encoder."""
        return self.loaded.text.truncated(captions)

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the mean implicit reward over the draws, [B] float32, in logits of trained_beta.

        Each image has the shape that the policy was trained on: a square, or its nearest bucket.
        """
        loaded = self.loaded
        unique = list(dict.fromkeys(captions))
        row = {caption: index for index, caption in enumerate(unique)}
        place = np.array([row[caption] for caption in captions])
        text = loaded.text.encode(unique)
        rewards = np.zeros(len(images), np.float64)
        shapes = [self.shape_of(image) for image in images]
        for shape in dict.fromkeys(shapes):
            places = [index for index, other in enumerate(shapes) if other == shape]
            latents = self._latents([images[index] for index in places], shape)
            for start in range(0, len(places), loaded.batch):
                part = places[start : start + loaded.batch]
                clean = latents[start : start + loaded.batch]
                seen = {name: torch.from_numpy(rows[place[part]].astype(np.float32)) for name, rows in text.items()}
                rewards[part] = self._mean_rewards(clean, seen, [captions[index] for index in part])
        return rewards.astype(np.float32)

    def shape_of(self, image: Image.Image) -> Shape:
        """Return the height and width in pixels that an image is scored at."""
        side = self.folders.resolution
        known = self.folders.buckets
        return nearest((image.height, image.width), known) if known else (side, side)

    def _latents(self, images: Sequence[Image.Image], shape: Shape) -> torch.Tensor:
        """Encode images at one shape, [B, C, H, W] float32."""
        encoder = self.loaded.images
        pixels = np.stack([shaped_pixels(image, *shape) for image in images])
        latents = encoder.encode(pixels, np.zeros(len(pixels), np.int64), 0).astype(np.float32)
        return torch.from_numpy(latents).view(-1, *autoencoders.shaped_latents(encoder.vae.config, shape))

    def _mean_rewards(
        self, clean: torch.Tensor, text: Mapping[str, torch.Tensor], captions: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        loaded = self.loaded
        total = np.zeros(len(captions), np.float64)
        conditioning = {name: values.to(loaded.device) for name, values in text.items()}
        shape = (clean.shape[1], clean.shape[2], clean.shape[3])
        square = autoencoders.latent_shape(loaded.images.vae.config, self.folders.resolution)
        timestep = partial(loaded.backbone.timestep, area=math.prod(shape) / math.prod(square))
        for index in range(REWARD_DRAWS):
            keys = [pairs.prompt_id(caption) for caption in captions]
            visits = [draw(REWARD_SEED, index, key, shape, timestep) for key in keys]
            noise = torch.from_numpy(np.stack([visit.noise for visit in visits]))
            timesteps = torch.tensor([visit.timestep for visit in visits])
            moved = [tensor.to(loaded.device) for tensor in (clean, noise, timesteps)]
            total += self._rewards(moved[0], moved[1], moved[2], conditioning).double().cpu().numpy()
        return total / REWARD_DRAWS

    @torch.inference_mode()
    def _rewards(
        self,
        clean: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        loaded = self.loaded
        seen = Images(latents=clean, noise=noise, timesteps=timesteps, conditioning=conditioning)
        errors = [
            forward.mean_squares(forward.image_residuals(loaded.backbone, network, seen, loaded.autocast))
            for network in loaded.networks
        ]
        policy, reference = errors
        return objectives.rewards(policy, reference, self.folders.beta)
