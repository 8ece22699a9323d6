"""Two models' images of the same prompts and start noise, and what their scores say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from infra.base import files
from infra.base.errors import UserError
from pipelines.drawing.image_sets import DONE
from pipelines.judging.image_flags import check_flags
from pipelines.judging.score_files import KEYS, fingerprints, paired_scores, read_scores, read_set
from pipelines.judging.win_rate import win_rate

MODEL_FLAGS = ("model", "revision", "lora", "fingerprints", "images_per_prompt")  # may differ between the two


@dataclass(frozen=True)
class Images:
    """One model's images, as they were drawn."""

    folder: str
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class Drawn(Images):
    """One model's images, scored and judged too."""

    scores: pa.Table
    judged: Mapping[str, Any]
    fingerprints: Mapping[str, str]  # by scorer

    @property
    def scorers(self) -> list[str]:
        """Return the names of the score columns."""
        return [name for name in self.scores.column_names if name not in KEYS]


def find_images(path: str) -> Images:
    """Read what a folder of images was drawn with.

    Raises:
        UserError: if it is unfinished.
    """
    folder = files.resolve(path)
    if not files.exists(files.join(folder, DONE)):
        raise UserError(f"{folder}: no finished images here; run generate.py")
    return Images(folder, files.read_json(files.join(folder, DONE))["identity"])


def read_drawn(path: str) -> Drawn:
    """Read what is known of a scored folder of images.

    Raises:
        UserError: if it is unfinished or not scored.
    """
    found = find_images(path)
    scores, judged = read_scores(found.folder), read_set(found.folder)
    return Drawn(found.folder, found.identity, scores, judged, fingerprints(found.folder))


def check_comparable(one: Images, other: Images) -> None:
    """Refuse two sets of images that differ in more than the model, or were not seen by the same safety filter.

    Raises:
        UserError: naming the flags that differ, or the folders.
    """
    names = sorted((set(one.identity) | set(other.identity)) - set(MODEL_FLAGS))
    if differing := [name for name in names if one.identity.get(name) != other.identity.get(name)]:
        raise UserError(
            f"{one.folder} and {other.folder} were drawn with different {', '.join(differing)}; "
            "only the model may differ, else the comparison is not of models"
        )
    check_flags(one.folder, other.folder)


def check_scorers(one: Drawn, other: Drawn, names: Sequence[str]) -> None:
    """Refuse scores that have a name in common but not their weights, preprocessing or formula.

    Args:
        names: scorers that scored both.

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
    """Compute win rate and medians over one image per prompt, for each scorer.

    Args:
        scorers: scorers that scored both; by default all of them.

    Raises:
        UserError: if the two differ in more than the model, or one of the scorers does between them.
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


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the settings in which two resolved configs differ, where the results lie left out: name to both values."""
    found: dict[str, list[Any]] = {}
    for name in sorted((set(one) | set(other)) - {"output"}):
        mine, yours = one.get(name), other.get(name)
        if isinstance(mine, Mapping) and isinstance(yours, Mapping):
            found |= differences(mine, yours)
        elif mine != yours:
            found[name] = [mine, yours]
    return found
