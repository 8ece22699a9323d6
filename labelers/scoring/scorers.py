"""The scorers by name, and what a scorer is. A new one is one file and one line here."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from infra.base.errors import UserError
from labelers.clips import weights as scorer_weights
from labelers.clips.weights import PUBLISHED, WORLD


class Scorer(Protocol):
    """Judges images, each beside the caption that asked for it.

    A scorer that limits its text also has `truncated(captions)`, which counts the captions over the limit. One with
    weights takes `world`, `published` or a local path as its only argument, and has `check()`, which refuses bad ones.
    """

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of weights, preprocessing and formula, in hex; equal ones mean equal scores."""
        ...

    @property
    def temperature(self) -> float | None:
        """Return T, where a score difference / T is a Bradley-Terry logit; None where the scorer has no such T."""
        ...

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one score per full-size, upright RGB image, [B] float32; higher is better."""
        ...


# name: module and class
SCORERS = {
    "aesthetics": "labelers.clips.aesthetics:Aesthetics",
    "clip": "labelers.clips.clip_score:ClipScore",
    "fidelity": "infra.world.fidelity:Fidelity",
    "hpsv2": "labelers.clips.human_preference:HPSv2",
    "hpsv2.1": "labelers.clips.human_preference:HPSv21",
    "implicit": "labelers.scoring.implicit:Implicit",
    "oracle": "infra.world.oracle:Oracle",
    "pickscore": "labelers.clips.pickscore:PickScore",
}


class FunctionScorer:
    """Any function of images and captions as a scorer."""

    temperature = None

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.name = name

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash the function's name and the file it is written in."""
        source = inspect.getsourcefile(inspect.unwrap(self.function))
        return scorer_weights.fingerprint([Path(source)] if source else [], self.name)

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Call the function.

        Raises:
            ValueError: if it does not return one number per image.
        """
        scores = np.asarray(self.function(images, captions), np.float32)
        if scores.shape != (len(images),):
            raise ValueError(f"scorer {self.name}: {len(images)} images gave scores of shape {scores.shape}")
        return scores


def load(name: str, weights: str | None = None) -> Scorer:
    """Make a scorer; its model is read at the first score.

    Args:
        name: one of SCORERS, or module:function of any function from (images, captions) to [B] scores.
        weights: world (the default), published, or a local path.

    Raises:
        UserError: if there is no such scorer, or nothing where its weights should be.
    """
    named = _import_named(name)
    if not hasattr(named, "score"):
        scorer: Scorer = FunctionScorer(named, name)
    elif hasattr(named, "check"):
        return named(weights or WORLD)
    else:
        scorer = named()
    if weights not in (None, WORLD, PUBLISHED):
        raise UserError(f"--weights {name}={weights}: {name} has no weights; leave this flag out")
    return scorer


def check(name: str, weights: str | None = None, captions: Sequence[str] = ()) -> None:
    """Refuse a scorer that cannot work, from names, headers and shapes alone; published weights are fetched.

    Args:
        captions: those that the scorer is to judge.

    Raises:
        UserError: if it is unknown, its weights are missing, of another architecture, or not only tensors, or it cannot
            judge a caption.
    """
    scorer = load(name, weights)
    if hasattr(scorer, "check"):
        scorer.check()
    if hasattr(scorer, "check_captions"):
        scorer.check_captions(captions)


def weights_of(names: Sequence[str], flags: Sequence[str]) -> dict[str, str | None]:
    """Read --weights: one set for all scorers, and NAME=PATH (or NAME=SET) for single ones, which take precedence.

    Raises:
        UserError: if a flag names a scorer that was not asked for, or two sets are given for all.
    """
    single = dict(flag.split("=", 1) for flag in flags if "=" in flag)
    sets = [flag for flag in flags if "=" not in flag]
    strangers = sorted(set(single) - set(names))
    if strangers:
        raise UserError(f"--weights {strangers[0]}=...: not among the scorers asked for, {', '.join(names)}")
    if len(sets) > 1 or not set(sets) <= {WORLD, PUBLISHED}:
        raise UserError(f"--weights {' '.join(sets)}: give {WORLD}, {PUBLISHED} or NAME=PATH")
    return {name: single.get(name, sets[0] if sets else None) for name in names}


def _import_named(name: str) -> Any:
    """Import the class or function that a name stands for."""
    module, _, attribute = SCORERS.get(name, name).partition(":")
    if not attribute:
        raise UserError(f"scorer {name!r}: unknown; there are {', '.join(sorted(SCORERS))}, and any module:function")
    try:
        named = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"scorer {name!r}: cannot be imported ({error})") from error
    if not callable(named):
        raise UserError(f"scorer {name!r}: {attribute} is not a function; name a function or a scorer's class")
    return named
