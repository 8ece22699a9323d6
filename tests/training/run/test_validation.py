"""Validation images: the same at any number of ranks, drawn in the steps' precision, and judged outside of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from pipelines.drawing.image_identity import image_seed
from training.run import validation
from training.run.validation import Drawer, Validator
from training.settings.config import ValidationConfig


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_networks_draw_as_in_a_step(precision: torch.dtype) -> None:
    drawn: list[torch.dtype] = []

    class Pipeline:
        device = torch.device("cpu")

        def __call__(self, prompt: list[str], **_: Any) -> SimpleNamespace:
            drawn.append(torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype)
            return SimpleNamespace(images=[Image.new("RGB", (2, 2)) for _ in prompt])

    class Scorer:
        def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
            assert len(images) == len(captions)
            assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32
            return np.array([len(caption) for caption in captions], np.float32)

    scorer: Any = Scorer()
    drawer = Drawer(
        config=ValidationConfig(),
        captions=["a", "bb", "ccc"],
        pipeline=Pipeline(),
        rank=1,
        world_size=2,
        batch_size=2,
        autocast=precision,
    )
    scores, grid = Validator(drawer=drawer, scorer=scorer).run()
    assert drawn == [precision]
    assert scores.tolist() == [0, 2, 0]  # the second of two ranks draws the second caption
    assert [number for number, _ in grid] == [1]


@pytest.mark.parametrize(("ranks", "batch"), [(1, 5), (1, 2), (2, 2), (3, 1)])
def test_an_image_has_its_seed_whichever_rank_draws_it_and_in_which_batch(
    ranks: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def draw_images(
        _: object, captions: list[str], seeds: list[int], steps: int, guidance: float, tokens: int | None, flag: str
    ) -> list[Image.Image]:
        assert len(captions) <= batch
        assert (steps, guidance, tokens, flag) == (7, 2.5, 99, "--precision")
        asked.extend(zip(captions, seeds, strict=True))
        return [Image.new("RGB", (1, 1)) for _ in captions]

    monkeypatch.setattr(validation, "draw_images", draw_images)
    captions = ["a", "b", "c", "a", "b"]  # of three, two have a second image
    places: list[int] = []
    for rank in range(ranks):
        drawer = Drawer(
            config=ValidationConfig(sampling_steps=7, guidance_scale=2.5),
            captions=captions,
            pipeline=SimpleNamespace(device=torch.device("cpu")),
            rank=rank,
            world_size=ranks,
            batch_size=batch,
            autocast=torch.float32,
            max_tokens=99,
        )
        places += [place for part, _ in drawer.draw() for place in part]
    assert sorted(places) == [0, 1, 2, 3, 4]
    assert [caption for caption, _ in asked] == [captions[place] for place in places]
    # The seed of validation is 1, whatever the run's; an image's noise is of its place, so second images are others.
    assert [seed for _, seed in asked] == [image_seed(1, place, captions[place]) for place in places]
    assert len(set(asked)) == 5


def test_the_grid_has_the_first_sixteen_images() -> None:
    image = Image.new("RGB", (1, 1))
    assert validation._in_grid([14, 15, 16, 17], [image] * 4) == [(14, image), (15, image)]


def test_prompts_are_drawn_as_often_and_judged_by_whom_the_flags_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, found in (("load_pipeline", None), ("kind_of", None), ("tokens_of", 99), ("native_resolution", 64)):
        monkeypatch.setattr(validation, name, lambda *_, found=found, **_parts: found)
    monkeypatch.setattr(validation.scorers, "load", lambda *named: named)
    judged, sampled = tmp_path / "judged.txt", tmp_path / "sampled.txt"
    judged.write_text("a\nb\n")
    sampled.write_text("".join(f"{number}\n" for number in range(20)))
    config = ValidationConfig(
        validation_prompts=str(judged),
        validation_images=3,
        validation_scorer="clip",
        validation_weights="published",
        sample_prompts=str(sampled),
    )
    backbone: Any = SimpleNamespace(folder=tmp_path, network_folder="unet")
    manifest: Any = SimpleNamespace(embeddings=None)
    network = torch.nn.Linear(1, 1)
    validator, sampler = validation.make_drawers(config, backbone, network, manifest, 0, 1, torch.float32)
    assert validator is not None
    assert sampler is not None
    assert validator.drawer.captions == ["a", "b", "a", "b", "a", "b"]
    assert validator.scorer == ("clip", "published")
    assert sampler.captions == [str(number) for number in range(16)]
    assert sampler.max_tokens == 99
