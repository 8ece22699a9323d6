"""The scorers by name, and what a scorer is. A new one is one file and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from infra.errors import UserError


class Scorer(Protocol):
    """Judges images, each beside the caption that asked for it."""

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return one score per image, [B] float32; higher is better."""
        ...


# name: module and class; a class takes no arguments, its weights come from its module's own defaults
SCORERS = {
    "oracle": "labelers.oracle:Oracle",
    "fidelity": "labelers.fidelity:Fidelity",
}


def load(name: str) -> Scorer:
    """Make a scorer by its name.

    Raises:
        UserError: if there is none of that name.
    """
    if name not in SCORERS:
        raise UserError(f"scorer {name!r}: unknown; there are {', '.join(sorted(SCORERS))}")
    module, _, attribute = SCORERS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)()
