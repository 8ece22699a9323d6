"""Figures of an assessment by hand: held-out accuracy, median and mean of validation scores, and the grid of images."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from training.run import assessment, reward
from training.run.assembly import Rank
from training.run.grid import paste_grid


def held_out_accuracy(
    monkeypatch: pytest.MonkeyPatch, policy: torch.Tensor, reference: torch.Tensor, world_size: int = 1
) -> float:
    """Compute the accuracy from errors [2, repeats, pairs]."""
    monkeypatch.setattr(reward, "held_out_errors", lambda *_: policy)
    trainer: Any = SimpleNamespace(backbone=None, rank=Rank(world_size=world_size))
    pairs: Any = SimpleNamespace(repeats=policy.shape[1])
    return assessment.held_out_accuracy(trainer, pairs, reference)


def test_the_sign_of_the_mean_margin_decides_and_not_the_mean_of_the_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    # Margins at two draws: -3 and 1, mean -1, right; -1 and 3, wrong; -2 and 2, neither; -1 and -1, right.
    margins = torch.tensor([[-3.0, -1.0, -2.0, -1.0], [1.0, 3.0, 2.0, -1.0]])
    reference = torch.ones(2, 2, 4)
    policy = torch.stack([1 + margins, torch.ones(2, 4)])
    assert held_out_accuracy(monkeypatch, policy, reference) == (1 + 0 + 0.5 + 1) / 4
    turned = held_out_accuracy(monkeypatch, policy.flip(0), reference)
    assert turned == (0 + 1 + 0.5 + 0) / 4
    easier = torch.stack([reference[0] + 2, reference[1]])  # the reference misses the winners by 2 more
    assert held_out_accuracy(monkeypatch, policy, easier) == (1 + 1 + 1 + 1) / 4  # mean margins -3, -1, -2, -3


def test_each_rank_adds_its_own_pairs_to_the_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    # This rank has pairs 0 and 2, and zeros for the other rank's pair 1, whose margin is -4.
    policy = torch.tensor([[[0.5, 0.0, 2.0]], [[1.0, 0.0, 1.0]]])
    monkeypatch.setattr(assessment.dist, "all_reduce", lambda sums: sums.add_(torch.tensor([0.0, -4.0, 0.0])))
    found = held_out_accuracy(monkeypatch, policy, torch.zeros(2, 1, 3), world_size=2)
    assert found == pytest.approx(2 / 3)


def test_median_and_mean_of_all_validation_images(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[tuple[int, Image.Image, str]] = []
    first = Image.new("RGB", (1, 1), "red")
    trainer: Any = SimpleNamespace(
        validator=SimpleNamespace(run=lambda: (np.array([0.9, 0.1, 0.0]), [(0, first)])),
        rank=Rank(),
        journal=SimpleNamespace(picture=lambda *note: noted.append(note)),
    )
    found = assessment.validate(trainer, 7)
    assert found == pytest.approx({"validation_median": 0.1, "validation_mean": 1 / 3})
    assert noted[0][0] == 7
    monkeypatch.setattr(
        assessment.dist, "all_reduce", lambda of_all: of_all.add_(torch.tensor([0.0, 0.0, 0.8]).double())
    )
    monkeypatch.setattr(assessment.dist, "all_gather_object", lambda parts, own: parts.__setitem__(0, own))
    trainer.rank = Rank(world_size=2)
    assert assessment.validate(trainer, 8) == pytest.approx({"validation_median": 0.8, "validation_mean": 0.6})


def test_a_grid_is_in_the_order_of_its_captions_whichever_rank_drew_them(monkeypatch: pytest.MonkeyPatch) -> None:
    shades = [Image.new("L", (1, 1), 10 * place).convert("RGB") for place in range(18)]
    ours = [(place, shades[place]) for place in range(0, 18, 2)]
    theirs = [(place, shades[place]) for place in range(1, 18, 2)]
    monkeypatch.setattr(
        assessment.dist, "all_gather_object", lambda parts, own: parts.__setitem__(slice(2), [own, theirs])
    )
    pasted = assessment._gathered(ours, Rank(world_size=2))
    assert pasted.size == (8, 2)  # the first sixteen, eight in a row
    assert np.asarray(pasted)[..., 0].tolist() == [[10 * place for place in row] for row in (range(8), range(8, 16))]


def test_a_grid_s_last_row_may_be_short() -> None:
    images = [Image.new("RGB", (2, 3), colour) for colour in ("red", "green", "blue")]
    pasted = paste_grid(images, columns=2)
    assert pasted.size == (4, 6)
    corners = [(0, 0), (3, 2), (1, 5), (2, 3)]
    assert [pasted.getpixel(place) for place in corners] == [(255, 0, 0), (0, 128, 0), (0, 0, 255), (0, 0, 0)]
