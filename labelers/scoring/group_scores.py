"""Steps that score pairs of groups: an image that stands in several pairs of a batch is scored once there."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from labelers.scoring.pair_scores import ScorePairs, ScoreRawPairs
from labelers.scoring.scorers import Scorer


class OncePerImage:
    """A scorer that is asked once for each image and caption of a call; all else of it is as it was."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def __getattr__(self, name: str) -> Any:
        if name == "scorer":  # asked for before it is set, as by copy
            raise AttributeError(name)
        return getattr(self.scorer, name)

    @property
    def fingerprint(self) -> str:
        """Return the scorer's."""
        return self.scorer.fingerprint

    @property
    def temperature(self) -> float | None:
        """Return the scorer's."""
        return self.scorer.temperature

    def score(self, images: Sequence[Image.Image], captions: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return [B] float32; equal images with equal captions have one score.

        Raises:
            ValueError: if the scorer does not give a score for each image.
        """
        first: dict[tuple[object, ...], int] = {}
        shown = list(zip(images, captions, strict=True))
        keys = [(image.size, hashlib.blake2b(image.tobytes(), digest_size=16).digest(), text) for image, text in shown]
        chosen: list[int] = []
        for place, key in enumerate(keys):
            if key not in first:
                first[key] = len(chosen)
                chosen.append(place)
        scores = np.asarray(
            self.scorer.score([images[place] for place in chosen], [captions[place] for place in chosen]), np.float32
        )
        if scores.shape != (len(chosen),):
            raise ValueError(f"scores of shape {list(scores.shape)} for {len(chosen)} images")
        return scores[[first[key] for key in keys]]


class ScoreGroupPairs(ScorePairs):
    """Score both slots of decoded pairs of groups; see ScorePairs."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.scorers = {name: OncePerImage(scorer) for name, scorer in self.scorers.items()}


class ScoreRawGroupPairs(ScoreRawPairs):
    """Decode and score raw pairs of groups in one step; see ScoreRawPairs."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.scorers = {name: OncePerImage(scorer) for name, scorer in self.scorers.items()}
