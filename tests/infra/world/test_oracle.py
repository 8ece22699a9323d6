"""The oracle sees what a caption says, and the fidelity judge what it does not."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from infra.base.errors import UserError
from infra.base.files import ROOT
from infra.world import shapes
from infra.world.oracle import WEIGHTS, Oracle
from infra.world.shapes import (
    COLOURS,
    RADII,
    SHAPES,
    SPLITS,
    Scene,
    all_scenes,
    parse_caption,
    render,
    shape_mask,
    split_captions,
)
from labelers.scoring import scorers

RNG = np.random.default_rng(0)
SCENES = [all_scenes()[index] for index in RNG.integers(len(all_scenes()), size=60)]


def images(scenes: list[Scene]) -> list[Image.Image]:
    return [Image.fromarray(render(scene, RNG)) for scene in scenes]


def test_captions_parse_back() -> None:
    assert all(parse_caption(scene.caption) == scene for scene in all_scenes())
    assert parse_caption("a photo of a cat") is None


@pytest.mark.slow
def test_splits_share_no_caption() -> None:
    splits = split_captions()
    every = [caption for captions in splits.values() for caption in captions]
    assert len(every) == len(set(every)) == len(all_scenes())


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.slow
def test_the_committed_prompts_are_the_splits(split: str) -> None:
    prompts = (ROOT / "infra" / "world" / "prompts" / f"{split}.txt").read_text()
    assert prompts == "\n".join(split_captions()[split]) + "\n"


def test_the_memory_of_drawn_masks_is_bounded() -> None:
    assert shapes._drawn.cache_parameters()["maxsize"] == 2048


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shifted_mask_is_the_one_that_is_drawn_there(shape: str) -> None:
    for radius, place in itertools.product((6, 12, 14, 20, 23, 25, 27), range(27, 64, 3)):
        for x, y in ((place, 30), (30, place)):
            drawn = shapes._drawn.__wrapped__(shape, radius, x, y, shapes.RESOLUTION)
            assert np.array_equal(shape_mask(shape, radius, x, y), drawn)


def test_true_renders_score_high() -> None:
    scores = Oracle().score(images(SCENES), [scene.caption for scene in SCENES])
    assert scores.min() > 0.85


@pytest.mark.parametrize(
    ("attribute", "values"), [("shape", SHAPES), ("colour", COLOURS), ("background", COLOURS), ("size", RADII)]
)
def test_a_wrong_attribute_costs_its_weight(attribute: str, values: list[str]) -> None:
    wrong_scenes = [replace(s, **{attribute: next(v for v in values if v != getattr(s, attribute))}) for s in SCENES]
    drawn = images(SCENES)
    true = Oracle().score(drawn, [scene.caption for scene in SCENES])
    wrong = Oracle().score(drawn, [scene.caption for scene in wrong_scenes])
    assert np.median(true - wrong) == pytest.approx(WEIGHTS[attribute], abs=0.04)


def test_an_empty_image_shows_no_shape() -> None:
    flat = Image.new("RGB", (64, 64), COLOURS["teal"])
    score = Oracle().score([flat], ["a small red star on a teal background"])
    assert score[0] == pytest.approx(WEIGHTS["background"], abs=1e-6)


def test_foreign_captions_are_refused() -> None:
    with pytest.raises(UserError, match="a photo of a cat"):
        Oracle().score([Image.new("RGB", (64, 64))], ["a photo of a cat"])


def test_fidelity_prefers_clean_renders_to_noisy_ones_whatever_the_caption() -> None:
    clean = images(SCENES[:12])
    noisy = [
        Image.fromarray(np.clip(np.asarray(i) + RNG.normal(0, 25, (64, 64, 3)), 0, 255).astype(np.uint8)) for i in clean
    ]
    judge = scorers.load("fidelity")
    captions = ["anything"] * len(clean)
    assert (judge.score(clean, captions) > judge.score(noisy, captions) + 10).all()


def test_unknown_scorers_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"fidelity, .*oracle"):
        scorers.load("taste")
