"""The figures of an evaluation: two models' scores of the same prompts and start noise, all images of each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base.errors import UserError
from pipelines.drawing.image_sets import wanted_images
from pipelines.drawing.prompts import NONE_GIVEN, Prompt
from pipelines.judging.comparison import Drawn, check_scorers
from pipelines.judging.win_rate import rate_over_prompts, win_points
from pipelines.raw.pairs import prompt_id

FEW = 20  # prompts below which a bootstrap's interval is too narrow


@dataclass(frozen=True)
class Evaluated:
    """Both models' scores, a row per image of the prompt set, in the set's order."""

    wanted: pa.Table  # image_id, caption, image_index
    prompts: Sequence[Prompt]  # [n], each image's
    policy: Mapping[str, npt.NDArray[np.float32]]  # scorer to [n]
    base: Mapping[str, npt.NDArray[np.float32]]

    @property
    def clusters(self) -> npt.NDArray[np.int64]:
        """Return which caption each image is of, [n]: a caption that the set has twice is one prompt."""
        return np.array([prompt_id(prompt.caption) for prompt in self.prompts])

    def where(self, column: str, group: str) -> npt.NDArray[np.int64]:
        """Return the rows of a group's images."""
        return np.flatnonzero([prompt.groups.get(column, NONE_GIVEN) == group for prompt in self.prompts])

    def groups(self, column: str) -> list[str]:
        """Return a column's groups, those with the most images first."""
        found = [prompt.groups.get(column, NONE_GIVEN) for prompt in self.prompts]
        return sorted(dict.fromkeys(found), key=lambda group: -found.count(group))


def line_up(
    prompts: Sequence[Prompt], per_prompt: int, policy: Drawn, base: Drawn, scorers: Sequence[str]
) -> Evaluated:
    """Bring both models' scores into the order of the prompts.

    Raises:
        UserError: if a model's images are not those of the prompts, or a scorer has not scored both alike.
    """
    wanted = wanted_images([prompt.caption for prompt in prompts], per_prompt, seed=0)  # ids know no seed
    ids = wanted["image_id"].to_numpy()
    columns = []
    for drawn in (policy, base):
        found = drawn.scores["image_id"].to_numpy()  # in ascending order
        if len(found) != len(ids) or not np.array_equal(found, np.sort(ids)):
            raise UserError(f"{drawn.folder}: {len(found)} scored images are not the {len(ids)} of the prompts")
        if missing := [name for name in scorers if name not in drawn.scorers]:
            raise UserError(f"{drawn.folder}: not scored by {missing[0]}")
        rows = np.searchsorted(found, ids)
        columns.append({name: drawn.scores[name].to_numpy()[rows] for name in scorers})
    check_scorers(policy, base, scorers)
    return Evaluated(wanted, [prompt for prompt in prompts for _ in range(per_prompt)], *columns)


def judge(evaluated: Evaluated, scorer: str, rows: npt.NDArray[np.int64] | None = None) -> dict[str, Any]:
    """Compute a scorer's win rate of the policy and both medians, over all images or some.

    Returns:
        value, low, high (0 to 1), n (images), prompts, interval (its name); median: base and policy.
    """
    chosen = slice(None) if rows is None else rows
    ours, theirs = evaluated.policy[scorer][chosen], evaluated.base[scorer][chosen]
    clusters = evaluated.clusters[chosen]
    rate, interval = rate_over_prompts(win_points(ours, theirs), clusters)
    median = {"base": float(np.median(theirs)), "policy": float(np.median(ours))}
    return asdict(rate) | {"prompts": len(np.unique(clusters)), "interval": interval, "median": median}


def break_down(evaluated: Evaluated, columns: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Judge each group of each column by each scorer: column to group to scorer to what judge returns."""
    return {
        column: {
            group: {name: judge(evaluated, name, evaluated.where(column, group)) for name in evaluated.policy}
            for group in evaluated.groups(column)
        }
        for column in columns
    }
