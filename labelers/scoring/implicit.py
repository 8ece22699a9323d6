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
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from infra.base import files, models
from infra.base.errors import UserError
from infra.base.result_files import FACTS
from pipelines.latents import autoencoders, encoders, identity, kinds, weight_files
from pipelines.latents.adapters import check_adapters
from pipelines.latents.buckets import Shape, nearest
from pipelines.latents.captions import CaptionEncoder
from pipelines.raw import pairs
from pipelines.raw.decode import images_at_once, shaped_pixels
from training.backbones.backbone import Backbone, check_fingerprints, open_backbone
from training.backbones.schedule_config import ScheduleConfig
from training.method import forward, objectives
from training.method.draws import REWARD_DRAWS, REWARD_SEED, draw
from training.method.objective_config import ObjectiveConfig
from training.method.policy import load_adapters

WORLD_MODEL = "infra/world/model"
BETA = 5000.0  # for a policy whose own beta does not fit, see trained_beta
BATCH = 32  # images in one forward pass, at most


@dataclass(frozen=True, kw_only=True)
class Folders:
    """A policy and its reference; a LoRA policy is its base and the folder of its adapters."""

    policy: Path
    reference: Path
    beta: float
    schedule: ScheduleConfig
    max_tokens: int | None  # of T5
    resolution: int  # pixels
    buckets: tuple[Shape, ...] = ()  # of the store that the policy was trained on, heights and widths in pixels
    lora: Path | None = None

    @classmethod
    def find(cls, weights: str) -> Folders:
        """Read POLICY or POLICY,REFERENCE; without the second, the policy's facts name it. A LoRA result is a policy.

        Raises:
            UserError: if a folder is missing or the two encode images or text differently.
        """
        name, _, against = weights.partition(",")
        if name in ("world", "published"):
            raise UserError("--scorer implicit: its weights are a policy's; give --weights implicit=POLICY_FOLDER")
        lora = models.adapters_folder("--weights implicit=", name) if models.holds_adapters(name) else None
        facts = (lora or models.local_folder(name, flag="--weights implicit=")) / FACTS
        result = files.read_json(str(facts)) if facts.is_file() else {}
        config = result.get("config", {})
        if lora and not config:
            raise UserError(
                f"--weights implicit={weights}: {name} has no {FACTS} that names the base of its adapters; "
                "give the folder that training wrote"
            )
        policy = started_from(config).folder() if lora else models.local_folder(name)
        if lora:
            check_adapters("--weights", lora, policy)
        reference = (models.Model(against) if against else trained_against(config)).folder()
        for folder in (policy, reference):
            if not any((folder / kinds.kind_of(folder).network).glob("*.safetensors")):
                raise UserError(f"--weights implicit={weights}: {folder} has no network in safetensors; convert it")
        for folder in dict.fromkeys((policy, reference)):
            weight_files.check_folder(folder, (kinds.kind_of(folder).network,), "--weights implicit=")
        drawn = config.get("schedule", {})
        chosen = drawn.get("timesteps")
        schedule = ScheduleConfig(tuple(chosen) if chosen else None, drawn.get("zero_terminal_snr", False))
        folders = cls(
            policy=policy,
            reference=reference,
            beta=trained_beta(config.get("objective", {})),
            schedule=schedule,
            max_tokens=result.get("max_tokens"),
            resolution=result.get("resolution") or kinds.native_resolution(reference),
            buckets=tuple((int(height), int(width)) for height, width in result.get("buckets", ())),
            lora=lora,
        )
        weight_files.check_weights(reference, folders.frozen, "--weights implicit=")
        own = identity.fingerprints(policy, [part for part in folders.frozen if (policy / part).is_dir()])
        check_fingerprints(own, reference, str(policy))
        return folders

    @property
    def frozen(self) -> tuple[str, ...]:
        """Name the frozen parts, which make the latents and embeddings that the networks read."""
        kind = kinds.kind_of(self.reference)
        return kind.frozen(with_sized=bool(kinds.text_tokens(self.reference, self.max_tokens)))


def started_from(config: Mapping[str, Any]) -> models.Model:
    """Return the model that a result's settings say it was trained from."""
    return models.Model(config.get("model", WORLD_MODEL), config.get("revision"))


def trained_against(config: Mapping[str, Any]) -> models.Model:
    """Return the reference that a result's settings name, else the model that the policy started from."""
    own = config.get("reference_model")
    if own:
        return models.Model(own, config.get("reference_revision"))
    return started_from(config)


def trained_beta(objective: Mapping[str, Any]) -> float:
    """Return the beta of a result's settings, or BETA where that one does not apply to a score.

    mapo and sft have no beta, and with auto each step has its own. A score is made of native, unweighted errors, so a
    beta for weighted errors or for errors of the noise does not carry over. A score's sign, and so the winner, does not
    depend on beta.
    """
    settings = ObjectiveConfig(
        objective=objective.get("objective", "dpo"),
        beta=objective.get("beta", BETA),
        weighting=objective.get("weighting", "constant"),
        error=objective.get("error", "native"),
    )
    fits = settings.needs_reference and settings.weighting == "constant" and settings.error == "native"
    return settings.known_beta if fits and settings.beta != "auto" else BETA


@dataclass(frozen=True, kw_only=True)
class Models:
    """The loaded networks, and the store's own steps, which make of an image the latent that training reads."""

    backbone: Backbone
    networks: tuple[torch.nn.Module, torch.nn.Module]  # policy, reference
    images: encoders.LatentEncoder
    text: CaptionEncoder
    device: torch.device
    batch: int  # images in one forward pass

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
        return cls(
            backbone=backbone,
            networks=(policy.to(device), backbone.load_network().to(device)),
            # The posterior's mean, not a sample: a score must not depend on chance.
            images=encoders.LatentEncoder(reference, folders.resolution, "mean", False, 0, batch, "float32"),
            text=CaptionEncoder(reference, BATCH, "float32", folders.max_tokens),
            device=device,
            batch=batch,
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
        backbone = self.loaded.backbone
        noisy = backbone.add_noise(clean, noise, timesteps)
        target = backbone.target(clean, noise, timesteps)
        errors = [
            forward.errors(backbone.predict(network, noisy, timesteps, conditioning), target)
            for network in self.loaded.networks
        ]
        policy, reference = errors
        return objectives.rewards(policy, reference, self.folders.beta)
