"""Compare two models' images of the same prompts and start noise by their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from infra.base import files
from infra.base.errors import UserError
from pipelines.drawing.image_flags import check_same_filter
from pipelines.drawing.image_sets import read_manifest
from pipelines.judging.score_files import KEYS, fingerprints, paired_scores, read_scores, read_set
from pipelines.judging.win_rate import win_rate

MODEL_FLAGS = ("model", "revision", "lora", "fingerprints", "images_per_prompt")  # may differ between the two


@dataclass(frozen=True)
class Images:
    """A folder of one model's images."""

    folder: str
    identity: Mapping[str, Any]  # everything that decides the images: model, settings, seed


@dataclass(frozen=True, kw_only=True)
class Drawn(Images):
    """A folder of one model's images with their scores."""

    scores: pa.Table
    judged: Mapping[str, Any]  # figures of the images as a whole, as set_judges.judge_set returns them
    fingerprints: Mapping[str, str]  # by scorer

    @property
    def scorers(self) -> list[str]:
        """Return the names of the score columns."""
        return [name for name in self.scores.column_names if name not in KEYS]


def find_images(path: str) -> Images:
    """Open a folder of images and read what they were drawn with.

    Raises:
        UserError: if the folder is unfinished.
    """
    folder = files.resolve(path)
    return Images(folder, read_manifest(folder)["identity"])


def read_drawn(path: str) -> Drawn:
    """Open a folder of scored images.

    Raises:
        UserError: if the folder is unfinished or not scored.
    """
    images = find_images(path)
    return Drawn(
        folder=images.folder,
        identity=images.identity,
        scores=read_scores(images.folder),
        judged=read_set(images.folder),
        fingerprints=fingerprints(images.folder),
    )


def check_comparable(one: Images, other: Images) -> None:
    """Refuse two folders of images that differ in more than the model, or that different safety filters checked.

    Raises:
        UserError: naming the flags that differ, or the folders.
    """
    names = sorted((set(one.identity) | set(other.identity)) - set(MODEL_FLAGS))
    differing = [name for name in names if one.identity.get(name) != other.identity.get(name)]
    if differing:
        raise UserError(
            f"{one.folder} and {other.folder} were drawn with different {', '.join(differing)}; "
            "only the model may differ, or the comparison says nothing of the models; draw both with the same flags"
        )
    check_same_filter(one.folder, other.folder)


def check_scorers(one: Drawn, other: Drawn, names: Sequence[str]) -> None:
    """Refuse scores of the same name that come from other weights, preprocessing or formulas.

    Args:
        names: the scorers that scored both folders.

    Raises:
        UserError: naming both folders and the scorer.
    """
    for name in names:
        if one.fingerprints[name] != other.fingerprints[name]:
            raise UserError(
                f"{one.folder} and {other.folder} were scored by different versions of {name}; "
                f"run score.py --scorers {name} on both"
            )


def compare(policy: Drawn, base: Drawn, scorers: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Compute the win rate and the medians of each scorer, over one image per prompt.

    Args:
        scorers: the scorers to use; by default all that scored both folders.

    Raises:
        UserError: if the folders differ in more than the model, or in the version of a scorer.
    """
    check_comparable(policy, base)
    names = [name for name in policy.scorers if name in base.scorers] if scorers is None else scorers
    check_scorers(policy, base, names)
    compared = {}
    for name in names:
        ours, theirs = paired_scores(policy.scores, base.scores, name)
        medians = {"base": float(np.median(theirs)), "policy": float(np.median(ours))}
        compared[name] = {"win_rate": asdict(win_rate(ours, theirs)), "median": medians}
    return compared
