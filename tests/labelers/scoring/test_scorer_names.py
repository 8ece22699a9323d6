"""Scorers by name: those that are registered, any function or class of one's own, and their weights."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra.base import (
    torchvision_guard,  # noqa: F401  (before open_clip)
)
from infra.base.errors import UserError
from infra.base.files import ROOT
from labelers.scoring import scorers


def brightness(shown: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
    return [float(np.asarray(image).mean()) + len(caption) for image, caption in zip(shown, captions, strict=True)]


def one_number(shown: Sequence[Image.Image], captions: Sequence[str]) -> float:
    del shown, captions
    return 0.5


@pytest.mark.parametrize("name", scorers.SCORERS)
def test_every_registered_name_leads_to_a_scorer(name: str) -> None:
    module, _, attribute = scorers.SCORERS[name].partition(":")
    assert callable(getattr(importlib.import_module(module), attribute).score)


def test_any_function_is_a_scorer() -> None:
    scorers.check("test_scorer_names:brightness")
    scorer = scorers.load("test_scorer_names:brightness")
    white = Image.new("RGB", (2, 2), "white")
    scores = scorer.score([white, white], ["", "abc"])
    assert scores.dtype == np.float32
    assert scores.tolist() == [255.0, 258.0]
    assert scorer.temperature is None
    assert scorer.fingerprint != scorers.load("test_scorer_names:one_number").fingerprint


def test_a_class_of_ones_own_is_a_scorer() -> None:
    assert scorers.load("infra.world.oracle:Oracle").fingerprint == scorers.load("oracle").fingerprint


def test_the_scorer_in_contributing_works() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    example = re.search(r"`labelers/scoring/vividness.py`:\n\n```python\n(.*?)```", guide, re.S)
    assert example
    module: dict[str, Any] = {}
    exec(example[1], module)
    scorer: scorers.Scorer = module["Vividness"]()
    grey = Image.new("RGB", (4, 4), "grey")
    red = Image.new("RGB", (4, 4), "red")
    assert scorer.score([grey, red], ["", ""]).tolist() == [0.0, 1.0]
    assert (scorer.temperature, len(scorer.fingerprint)) == (None, 64)


def test_a_function_must_give_one_score_per_image() -> None:
    with pytest.raises(ValueError, match=r"one_number: 1 images gave scores of shape \(\)"):
        scorers.load("test_scorer_names:one_number").score([Image.new("RGB", (2, 2))], [""])


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("taste", f"there are {', '.join(sorted(scorers.SCORERS))}, and any module:function"),
        ("no.such.module:f", "cannot be imported"),
        ("test_scorer_names:absent", "cannot be imported"),
        ("test_scorer_names:ROOT", "not a function"),
    ],
)
def test_unknown_scorers_are_refused(name: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        scorers.check(name)


def test_weights_flags() -> None:
    names = ("clip", "pickscore")
    assert scorers.weights_of(names, ()) == {"clip": None, "pickscore": None}
    assert scorers.weights_of(names, ("published", "clip=/a=b")) == {"clip": "/a=b", "pickscore": "published"}
    with pytest.raises(UserError, match=r"oracle=.*: not among the scorers asked for, clip, pickscore"):
        scorers.weights_of(names, ("oracle=/x",))
    with pytest.raises(UserError, match="give world, published or NAME=PATH"):
        scorers.weights_of(names, ("/x",))
    with pytest.raises(UserError, match="oracle has no weights"):
        scorers.load("oracle", "/x")
