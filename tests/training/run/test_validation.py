"""Validation images are drawn in the precision of the run's steps, and judged outside of it."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

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
