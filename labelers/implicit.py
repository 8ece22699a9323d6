"""The fifth scorer: the implicit reward of a Diffusion-DPO model over its reference (Wallace et al. 2023, S4.1).

    r(image, caption) = -(beta/2) * mean over draws of (e_policy - e_reference)

up to a constant of the caption, which a comparison of two images of that caption does not see. The draws are keyed by
the caption, so both slots of a pair share their timesteps and noise; no caption is dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from infra import files, models
from infra.errors import UserError
from pipelines import encoders, pairs
from pipelines.images import square_pixels
from training import objectives
from training.backbone import FROZEN, StableDiffusion, check_fingerprints
from training.draws import Draw, draw
from training.result import FACTS

WORLD_MODEL = "infra/world/model"
DRAWS = 10  # S4.1
SEED = 20_231_121  # as training/reward.py: its draws belong to no training run
BETA = 5000.0  # where the policy does not say which one it was trained with
BATCH = 32  # images in one forward pass


@dataclass(frozen=True)
class Folders:
    """A policy and the model it is judged against."""

    policy: Path
    reference: Path
    beta: float

    @classmethod
    def find(cls, weights: str) -> Folders:
        """Read POLICY or POLICY,REFERENCE; without a reference it is the model that the policy says it started from.

        Raises:
            UserError: if a folder is missing or the two encode images or text differently.
        """
        name, _, against = weights.partition(",")
        if name in ("world", "published"):
            raise UserError("--scorer implicit: has no weights of its own; give --weights implicit=POLICY_FOLDER")
        policy = models.local_folder(name)
        facts = policy / FACTS
        config = files.read_json(str(facts))["config"] if facts.is_file() else {}
        reference = models.local_folder(against or config.get("model", WORLD_MODEL))
        for folder in (policy, reference):
            if StableDiffusion(folder).network_folder not in {
                path.parent.name for path in folder.glob("*/*.safetensors")
            }:
                raise UserError(f"--weights implicit={weights}: {folder} has no safetensors network")
        check_fingerprints({part: models.fingerprint(policy, part) for part in FROZEN}, reference, str(policy))
        return cls(policy, reference, config.get("objective", {}).get("beta", BETA))


class Implicit:
    """Scores how much likelier than its reference a policy finds an image for its caption."""

    temperature: float | None = None

    def __init__(self, weights: str) -> None:
        self.folders = Folders.find(weights)
        reference = self.folders.reference
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        backbone, other = StableDiffusion(reference), StableDiffusion(self.folders.policy)
        self.backbone, self.networks = backbone, [b.load_network().to(self.device) for b in (other, backbone)]
        vae = models.component_config(reference, "vae")
        side = models.component_config(reference, "unet")["sample_size"]
        self.resolution = side * 2 ** (len(vae["block_out_channels"]) - 1)
        self.shape = encoders.latent_shape(vae, self.resolution)
        # The store's own steps, so that an image and a caption become what training saw, but for posterior noise.
        self.images = encoders.LatentEncoder(reference, self.resolution, "mean", False, 0, BATCH, "float32")
        self.text = encoders.CaptionEncoder(reference, BATCH, "float32")
        told = [models.fingerprint(reference, part) for part in (*FROZEN, backbone.network_folder)]
        told += [models.fingerprint(self.folders.policy, backbone.network_folder)]
        told += [f"{DRAWS}/{SEED}/{self.folders.beta}/{self.resolution}"]
        self.fingerprint = hashlib.sha256("/".join(told).encode()).hexdigest()

    @staticmethod
    def check(weights: str) -> None:
        """Refuse weights that are no policy and reference of one kind.

        Raises:
            UserError: in one sentence.
        """
        Folders.find(weights)

    def truncated(self, captions: Sequence[str]) -> int:
        """Count the captions that the text encoder sees cut off."""
        tokenizer = self.text.tokenizer
        return sum(len(ids) > tokenizer.model_max_length for ids in tokenizer(list(captions)).input_ids)

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the mean implicit reward over the draws, [B] float32, in logits of the policy's beta."""
        pixels = np.stack([square_pixels(image, self.resolution) for image in images])
        latents = self.images.encode(pixels, np.zeros(len(pixels), np.int64), 0).astype(np.float32)
        unique = list(dict.fromkeys(captions))
        hidden = dict(zip(unique, self.text.encode(unique).astype(np.float32), strict=True))
        rewards = np.zeros(len(images), np.float64)
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            told = [str(caption) for caption in captions[part]]
            clean = torch.from_numpy(latents[part]).view(-1, *self.shape).to(self.device)
            conditioning = torch.from_numpy(np.stack([hidden[caption] for caption in told])).to(self.device)
            for index in range(DRAWS):
                visits = [self._draw(index, caption) for caption in told]
                rewards[part] += self._rewards(clean, conditioning, visits)
        return (rewards / DRAWS).astype(np.float32)

    def _draw(self, index: int, caption: str) -> Draw:
        return draw(SEED, index, pairs.prompt_id(caption), self.shape, self.backbone.timesteps)

    @torch.inference_mode()
    def _rewards(
        self, clean: torch.Tensor, conditioning: torch.Tensor, visits: Sequence[Draw]
    ) -> npt.NDArray[np.float64]:
        noise = torch.from_numpy(np.stack([visit.noise for visit in visits])).to(self.device)
        timesteps = torch.tensor([visit.timestep for visit in visits], device=self.device)
        noisy = self.backbone.add_noise(clean, noise, timesteps)
        target = self.backbone.target(clean, noise, timesteps)
        policy, reference = (
            objectives.errors(self.backbone.predict(network, noisy, timesteps, conditioning), target)
            for network in self.networks
        )
        return objectives.rewards(policy, reference, self.folders.beta).double().cpu().numpy()
