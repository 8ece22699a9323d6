"""The fifth scorer: the implicit reward of a Diffusion-DPO model over its reference (Wallace et al. 2023, S4.1).

    r(image, caption) = -(beta/2) * mean over draws of (e_policy - e_reference)

up to a constant of the caption, which a comparison of two images of that caption does not see. The draws are keyed by
the caption, so both slots of a pair share their timesteps and noise; no caption is dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from infra import files, models
from infra.errors import UserError
from pipelines import encoders, pairs, store
from pipelines.images import square_pixels
from training import objectives
from training.backbone import Backbone, check_fingerprints, open_backbone
from training.draws import draw
from training.objectives import ObjectiveConfig
from training.result import FACTS

WORLD_MODEL = "infra/world/model"
DRAWS = 10  # S4.1
SEED = 20_231_121  # as training/reward.py: its draws belong to no training run
BETA = 5000.0  # where the policy was trained with none that fits, see trained_beta
BATCH = 32  # images in one forward pass


@dataclass(frozen=True)
class Folders:
    """A policy and the model it is judged against."""

    policy: Path
    reference: Path
    beta: float

    @classmethod
    def find(cls, weights: str) -> Folders:
        """Read POLICY or POLICY,REFERENCE; without one the reference is what its facts name.

        Raises:
            UserError: if a folder is missing or the two encode images or text differently.
        """
        name, _, against = weights.partition(",")
        if name in ("world", "published"):
            raise UserError("--scorer implicit: has no weights of its own; give --weights implicit=POLICY_FOLDER")
        policy = models.local_folder(name)
        facts = policy / FACTS
        config = files.read_json(str(facts))["config"] if facts.is_file() else {}
        reference = (models.Model(against) if against else trained_against(config)).folder()
        for folder in (policy, reference):
            if open_backbone(folder).network_folder not in {
                path.parent.name for path in folder.glob("*/*.safetensors")
            }:
                raise UserError(f"--weights implicit={weights}: {folder} has no safetensors network")
        check_fingerprints({part: models.fingerprint(policy, part) for part in store.FROZEN}, reference, str(policy))
        return cls(policy, reference, trained_beta(config.get("objective", {})))


def trained_against(config: Mapping[str, Any]) -> models.Model:
    """Return the reference that a result's settings name: one of its own, else the policy's start."""
    if own := config.get("reference_model"):
        return models.Model(own, config.get("reference_revision"))
    return models.Model(config.get("model", WORLD_MODEL), config.get("revision"))


def trained_beta(objective: Mapping[str, Any]) -> float:
    """Return the beta of a result's settings, or BETA where it would mean nothing here.

    mapo and sft have no beta; one for weighted errors, or for errors of the noise, does not carry over to the native,
    unweighted ones that a score is made of. A score's sign, and so its winner, does not depend on beta.
    """
    settings = ObjectiveConfig(
        objective.get("objective", "dpo"),
        objective.get("beta", BETA),
        weighting=objective.get("weighting", "constant"),
        error=objective.get("error", "native"),
    )
    fits = settings.needs_reference and settings.weighting == "constant" and settings.error == "native"
    return settings.beta if fits else BETA


@dataclass(frozen=True)
class Models:
    """What is loaded: both networks, and the store's own steps, so that an image becomes what training saw."""

    backbone: Backbone
    networks: tuple[torch.nn.Module, torch.nn.Module]  # policy, reference
    images: encoders.LatentEncoder
    text: encoders.CaptionEncoder
    shape: tuple[int, int, int]  # C, H, W of a latent
    device: torch.device

    @classmethod
    def load(cls, folders: Folders) -> Models:
        """Load everything from local folders."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        backbone, reference = open_backbone(folders.reference), models.Model(str(folders.reference))
        policy = open_backbone(folders.policy).load_network().to(device)
        vae = encoders.vae_config(folders.reference)
        side = models.component_config(folders.reference, backbone.network_folder)["sample_size"]
        resolution = side * 2 ** (len(vae["block_out_channels"]) - 1)
        return cls(
            backbone,
            (policy, backbone.load_network().to(device)),
            # The posterior's mean, not a sample: a score should not depend on chance.
            encoders.LatentEncoder(reference, resolution, "mean", False, 0, BATCH, "float32"),
            encoders.CaptionEncoder(reference, BATCH, "float32"),
            encoders.latent_shape(vae, resolution),
            device,
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
        """Find the two models."""
        return Folders.find(self.weights)

    @cached_property
    def fingerprint(self) -> str:
        """Hash both networks, the frozen components, the draws and beta."""
        network = open_backbone(self.folders.reference).network_folder
        told = [models.fingerprint(self.folders.reference, part) for part in (*store.FROZEN, network)]
        told += [models.fingerprint(self.folders.policy, network), f"{DRAWS}/{SEED}/{self.folders.beta}"]
        return hashlib.sha256("/".join(told).encode()).hexdigest()

    @cached_property
    def loaded(self) -> Models:
        """Load both networks and the frozen components, once."""
        return Models.load(self.folders)

    def truncated(self, captions: Sequence[str]) -> int:
        """Count the captions that the text encoder sees cut off."""
        tokenizer = self.loaded.text.tokenizer
        return sum(len(ids) > tokenizer.model_max_length for ids in tokenizer(list(captions)).input_ids)

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the mean implicit reward over the draws, [B] float32, in logits of trained_beta."""
        loaded = self.loaded
        pixels = np.stack([square_pixels(image, loaded.images.resolution) for image in images])
        latents = loaded.images.encode(pixels, np.zeros(len(pixels), np.int64), 0).astype(np.float32)
        unique = list(dict.fromkeys(captions))
        hidden = dict(zip(unique, loaded.text.encode(unique).astype(np.float32), strict=True))
        rewards = np.zeros(len(images), np.float64)
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            clean = torch.from_numpy(latents[part]).view(-1, *loaded.shape)
            rewards[part] = self._mean_rewards(clean, hidden, captions[part])
        return rewards.astype(np.float32)

    def _mean_rewards(
        self, clean: torch.Tensor, hidden: dict[str, npt.NDArray[np.float32]], captions: Sequence[str]
    ) -> npt.NDArray[np.float64]:
        loaded, total = self.loaded, np.zeros(len(captions), np.float64)
        text = torch.from_numpy(np.stack([hidden[caption] for caption in captions])).to(loaded.device)
        for index in range(DRAWS):
            keys = [pairs.prompt_id(caption) for caption in captions]
            visits = [draw(SEED, index, key, loaded.shape, loaded.backbone.timestep) for key in keys]
            noise = torch.from_numpy(np.stack([visit.noise for visit in visits]))
            timesteps = torch.tensor([visit.timestep for visit in visits])
            moved = [tensor.to(loaded.device) for tensor in (clean, noise, timesteps)]
            total += self._rewards(moved[0], moved[1], moved[2], {"text_encoder": text}).double().cpu().numpy()
        return total / DRAWS

    @torch.inference_mode()
    def _rewards(
        self,
        clean: torch.Tensor,
        noise: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        backbone = self.loaded.backbone
        noisy, target = backbone.add_noise(clean, noise, timesteps), backbone.target(clean, noise, timesteps)
        policy, reference = (
            objectives.errors(backbone.predict(network, noisy, timesteps, conditioning), target)
            for network in self.loaded.networks
        )
        return objectives.rewards(policy, reference, self.folders.beta)
