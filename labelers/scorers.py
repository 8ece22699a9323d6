"""The scorers by name, and what a scorer is. A new one is one file and one line here."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from infra.errors import UserError


class Scorer(Protocol):
    """Judges images, each beside the caption that asked for it.

    A scorer with a text limit also has `truncated(captions) -> int`: how many of these captions are over it.
    """

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of weights, preprocessing and formula, in hex; equal ones mean equal scores."""
        ...

    @property
    def temperature(self) -> float | None:
        """Return what a score difference is divided by to be a Bradley-Terry logit; None where the scorer has none."""
        ...

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one score per image, [B] float32; higher is better."""
        ...


# name: module and class; one that has weights takes, as its only argument, world, published or a local path, and has
# check(), which refuses bad ones
SCORERS = {
    "oracle": "labelers.oracle:Oracle",
    "fidelity": "labelers.fidelity:Fidelity",
    "implicit": "labelers.implicit:Implicit",
}
SETS = ("world", "published")


class Function:
    """A scorer made of a plain function of images and captions."""

    temperature: float | None = None

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.fingerprint = source_fingerprint(function)

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the function's scores, [B] float32."""
        return np.asarray(self.function(images, captions), np.float32)


def source_fingerprint(thing: Any) -> str:
    """Hash the source file of a class or function: the fingerprint of a scorer without weights."""
    return hashlib.sha256(Path(inspect.getfile(thing)).read_bytes()).hexdigest()


def _find(name: str) -> Any:
    if ":" not in name and name not in SCORERS:
        raise UserError(f"scorer {name!r}: unknown; there are {', '.join(sorted(SCORERS))}, and any module:function")
    module, _, attribute = SCORERS.get(name, name).partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"scorer {name!r}: cannot be imported ({error})") from error


def load(name: str, weights: str | None = None) -> Scorer:
    """Make a scorer by its name.

    Args:
        name: one of SCORERS, or module:function of any function from (images, captions) to [B] scores.
        weights: world (the default), published, or a local path.

    Raises:
        UserError: if there is none of that name, or nothing where its weights should be.
    """
    found = _find(name)
    if hasattr(found, "check"):
        return found(weights or "world")
    if isinstance(found, type):
        made: Scorer = found()
        return made
    return Function(found)


def check(name: str, weights: str | None = None) -> None:
    """Refuse a scorer that cannot work, cheaply, before a job starts.

    Raises:
        UserError: in one sentence.
    """
    scorer = load(name, weights)
    if hasattr(scorer, "check"):
        scorer.check()


def weights_of(names: Sequence[str], flags: Sequence[str]) -> dict[str, str | None]:
    """Read --weights: one set for all scorers, and NAME=PATH for single ones, which go before it.

    Raises:
        UserError: for a name that is not among the scorers, or a value that is no named set.
    """
    single = dict(flag.split("=", 1) for flag in flags if "=" in flag)
    sets = [flag for flag in flags if "=" not in flag]
    if strangers := sorted(set(single) - set(names)):
        raise UserError(f"--weights {strangers[0]}=...: not among the scorers {', '.join(names)}")
    if len(sets) > 1 or not set(sets) <= set(SETS):
        raise UserError(f"--weights {' '.join(sets)}: give world, published or NAME=PATH")
    return {name: single.get(name, sets[0] if sets else None) for name in names}
