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

    fingerprint: str
    """SHA-256 over weights, preprocessing and formula settings."""
    temperature: float | None
    """Score difference / temperature is the Bradley-Terry logit; None: fitted on the human labels."""

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one score per image, [B] float32; higher is better."""
        ...


# name: module and class; a class whose constructor takes `weights` gets "world", "published" or a local path
SCORERS = {
    "oracle": "labelers.oracle:Oracle",
    "fidelity": "labelers.fidelity:Fidelity",
    "implicit": "labelers.implicit:Implicit",
}
DEFAULT_WEIGHTS = "world"


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


def find(name: str) -> Any:
    """Return the class or function behind a scorer's name, or behind `module:name`.

    Raises:
        UserError: if there is none.
    """
    if ":" not in name and name not in SCORERS:
        raise UserError(
            f"scorer {name!r}: unknown; there are {', '.join(sorted(SCORERS))}, and any callable given as module:name"
        )
    module, _, attribute = SCORERS.get(name, name).partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"scorer {name!r}: {error}") from error


def takes_weights(name: str) -> bool:
    """Say whether a scorer has weights to choose."""
    found = find(name)
    return inspect.isclass(found) and "weights" in inspect.signature(found).parameters


def load(name: str, weights: str | None = None) -> Scorer:
    """Make a scorer by its name.

    Args:
        weights: "world", "published" or a local path; None: "world".

    Raises:
        UserError: if there is none of that name, or its weights cannot be loaded.
    """
    found = find(name)
    if takes_weights(name):
        return found(weights or DEFAULT_WEIGHTS)
    if isinstance(found, type):
        made: Scorer = found()
        return made
    return Function(found)


def check(name: str, weights: str | None = None) -> None:
    """Refuse a scorer that cannot be loaded, cheaply, before a job starts.

    Raises:
        UserError: in one sentence.
    """
    found = find(name)
    if takes_weights(name):
        found.check(weights or DEFAULT_WEIGHTS)


def choose_weights(given: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Read `--weights world|published|NAME=PATH ...` into the weights of each scorer that has some.

    Raises:
        UserError: for a name that is not among the scorers, or a value that is no named set.
    """
    chosen, default = {}, DEFAULT_WEIGHTS
    for value in given:
        name, separator, path = value.partition("=")
        if separator and name not in names:
            raise UserError(f"--weights {value}: {name} is not among the scorers {', '.join(names)}")
        if not separator and value not in ("world", "published"):
            raise UserError(f"--weights {value}: give world, published or NAME=PATH")
        if separator:
            chosen[name] = path
        else:
            default = value
    return {name: chosen.get(name, default) for name in names if takes_weights(name)}
