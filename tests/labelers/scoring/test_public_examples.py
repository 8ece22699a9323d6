"""Scores that others published, on the published weights; skipped where these are not.

ImageReward's example (THUDM/ImageReward, example.py and its README) and HPSv2's demo image (tgxs002/HPSv2, issue 27):

    export IMAGEREWARD_PYTHON=/envs/imagereward/bin/python IMAGEREWARD_WEIGHTS=published IMAGEREWARD_IMAGES=/data/images
    export HPSV2_WEIGHTS=published HPSV2_IMAGE=/data/demo_image.jpg
    .venv/bin/python -m pytest -rs THIS_FILE
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from labelers.scoring import scorers
from labelers.scoring.endpoint_config import EndpointConfig

IMAGE_REWARD_CAPTION = "a painting of an ocean with clouds and birds, day time, low depth field effect"
IMAGE_REWARD_SCORES = [0.5812, 0.2745, -1.4132, -2.0296]  # of imagereward_1.webp to imagereward_4.webp
HPSV2_CAPTION = "A cat with two horns on its head"
HPSV2_SCORE = 0.2876  # v2.0, of hpsv2/assets/demo_image.jpg


def given(*names: str) -> list[str]:
    """Return variables of the environment, or skip the test and say which are missing."""
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        pytest.skip(f"needs the published weights: set {', '.join(missing)} (see the head of this file)")
    return [os.environ[name] for name in names]


def test_imagereward_gives_its_published_example() -> None:
    python, weights, folder = given("IMAGEREWARD_PYTHON", "IMAGEREWARD_WEIGHTS", "IMAGEREWARD_IMAGES")
    name = "imagereward"
    known = scorers.described([name], [f"{name}={weights}"], EndpointConfig(), [f"{name}={python}"])
    images = [Image.open(Path(folder, f"imagereward_{number}.webp")).convert("RGB") for number in range(1, 5)]
    scores = scorers.load(name, known[name]).score(images, [IMAGE_REWARD_CAPTION] * 4)
    assert scores.tolist() == pytest.approx(IMAGE_REWARD_SCORES, abs=2e-3)


def test_hpsv2_gives_its_published_demo() -> None:
    weights, image = given("HPSV2_WEIGHTS", "HPSV2_IMAGE")
    scorer = scorers.load("hpsv2", weights)
    (score,) = scorer.score([Image.open(image).convert("RGB")], [HPSV2_CAPTION]).tolist()
    assert score == pytest.approx(HPSV2_SCORE, abs=5e-4)  # the published one is of float16
