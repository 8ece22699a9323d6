"""The implicit reward by hand, with two networks that are numbers: draws by caption, means, and places of images."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from labelers.scoring.implicit import Implicit
from pipelines.raw.pairs import prompt_id
from training.method.draws import REWARD_DRAWS, REWARD_SEED, draw

TEXTS = {"a": 1.0, "b": 2.0}
FACTORS = {"policy": 0.5, "reference": 1.0}


class Plain:
    """A backbone whose networks scale the noisy latents, and by their caption's number."""

    def timestep(self, uniform: float, area: float = 1.0) -> int:
        return int(uniform * 1000 * area)

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return latents + noise + timesteps.view(-1, 1, 1, 1) / 1000

    def target(self, latents: torch.Tensor, _noise: torch.Tensor, _timesteps: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(latents)

    def predict(
        self, network: str, noisy: torch.Tensor, _: torch.Tensor, conditioning: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        return FACTORS[network] * conditioning["text"].view(-1, 1, 1, 1) * noisy


def encode(pixels: np.ndarray, *_: object) -> np.ndarray:
    return pixels[..., 0].reshape(len(pixels), -1) / 100


@pytest.fixture
def scorer() -> Implicit:
    """Return a scorer of images as they are: a latent of one channel is the red of the pixels, by 100."""
    made = Implicit("")
    made.__dict__["folders"] = SimpleNamespace(resolution=4, buckets=(), beta=200.0)
    made.__dict__["shape_of"] = lambda image: (image.height, image.width)
    made.__dict__["loaded"] = SimpleNamespace(
        backbone=Plain(),
        networks=("policy", "reference"),
        images=SimpleNamespace(
            encode=encode, vae=SimpleNamespace(config={"block_out_channels": [1], "latent_channels": 1})
        ),
        text=SimpleNamespace(encode=lambda captions: {"text": np.array([[TEXTS[one]] for one in captions])}),
        device=torch.device("cpu"),
        batch=2,
        autocast=torch.float32,
    )
    return made


def by_hand(red: int, caption: str, shape: tuple[int, int]) -> float:
    """Compute -(beta/2) times the mean over draws of e_policy - e_reference = (1/4 - 1) text^2 noisy^2."""
    height, width = shape
    area = height * width / 16  # of the square of 4 x 4
    differences = []
    for index in range(REWARD_DRAWS):
        # The key is the caption's, so that both images of a pair have one noise.
        drawn = draw(REWARD_SEED, index, prompt_id(caption), (1, height, width), lambda u: int(u * 1000 * area))
        noisy = red / 100 + drawn.noise + drawn.timestep / 1000
        differences.append((0.25 - 1) * TEXTS[caption] ** 2 * float((noisy**2).mean()))
    return -100 * float(np.mean(differences))


def test_rewards_are_means_over_a_captions_draws_and_stay_with_their_images(scorer: Implicit) -> None:
    shown = [(50, "a", (4, 4)), (90, "b", (4, 4)), (10, "a", (4, 4)), (90, "a", (4, 4)), (70, "b", (4, 4))]
    images = [Image.new("RGB", (width, height), (red, 0, 0)) for red, _, (height, width) in shown]
    rewards = scorer.score(images, [caption for _, caption, _ in shown])
    assert rewards.dtype == np.float32
    assert rewards.tolist() == pytest.approx([by_hand(*one) for one in shown], rel=1e-5)


def test_images_of_several_shapes_keep_their_places(scorer: Implicit) -> None:
    shown = [(50, "a", (4, 4)), (90, "b", (2, 4)), (10, "a", (2, 4)), (90, "b", (4, 4)), (70, "a", (2, 4))]
    images = [Image.new("RGB", (width, height), (red, 0, 0)) for red, _, (height, width) in shown]
    rewards = scorer.score(images, [caption for _, caption, _ in shown])
    assert rewards.tolist() == pytest.approx([by_hand(*one) for one in shown], rel=1e-5)


def test_a_policy_that_is_its_reference_has_no_reward(scorer: Implicit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FACTORS, "policy", 1.0)
    assert scorer.score([Image.new("RGB", (4, 4))], ["a"]).tolist() == [0.0]
