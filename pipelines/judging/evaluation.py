"""Compute the figures of an evaluation from two models' scores of the same prompts and start noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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

ENOUGH_PROMPTS = 20  # with fewer, the interval of a bootstrap is too narrow


@dataclass(frozen=True)
class Evaluated:
    """The scores of both models: a row per image, in the order of the prompt set."""

    wanted: pa.Table  # image_id, caption, image_index
    prompts: Sequence[Prompt]  # [n], the prompt of each image
    policy: Mapping[str, npt.NDArray[np.float32]]  # scorer to [n]
    base: Mapping[str, npt.NDArray[np.float32]]

    @property
    def clusters(self) -> npt.NDArray[np.int64]:
        """Return an id of each image's caption, [n]; a caption that stands twice in the prompt set is one prompt."""
        return np.array([prompt_id(prompt.caption) for prompt in self.prompts])

    def also(self, scorer: str, policy: npt.NDArray[np.float32], base: npt.NDArray[np.float32]) -> Evaluated:
        """Add a scorer's scores of both models' images, each [n]."""
        return replace(self, policy={**self.policy, scorer: policy}, base={**self.base, scorer: base})

    def where(self, column: str, group: str) -> npt.NDArray[np.int64]:
        """Return the rows of a group's images."""
        return np.flatnonzero([prompt.groups.get(column, NONE_GIVEN) == group for prompt in self.prompts])

    def groups(self, column: str) -> list[str]:
        """Return the groups of a column, those with the most images first."""
        groups = [prompt.groups.get(column, NONE_GIVEN) for prompt in self.prompts]
        return sorted(dict.fromkeys(groups), key=lambda group: -groups.count(group))


def line_up(
    prompts: Sequence[Prompt], per_prompt: int, policy: Drawn, base: Drawn, scorers: Sequence[str]
) -> Evaluated:
    """Bring both models' scores into the order of the prompts.

    Raises:
        UserError: if a model's images are not those of the prompts, a scorer is missing, or its versions differ.
    """
    wanted = wanted_images(
        [prompt.caption for prompt in prompts], per_prompt, seed=0
    )  # an image_id does not depend on the seed
    ids = wanted["image_id"].to_numpy()
    policy_scores = _in_order(policy, ids, scorers)
    base_scores = _in_order(base, ids, scorers)
    check_scorers(policy, base, scorers)
    of_images = [prompt for prompt in prompts for _ in range(per_prompt)]
    return Evaluated(wanted, of_images, policy=policy_scores, base=base_scores)


def unjudged(prompts: Sequence[Prompt], per_prompt: int) -> Evaluated:
    """List the images of the prompts without any score."""
    wanted = wanted_images([prompt.caption for prompt in prompts], per_prompt, seed=0)
    return Evaluated(wanted, [prompt for prompt in prompts for _ in range(per_prompt)], policy={}, base={})


def _in_order(drawn: Drawn, ids: npt.NDArray[np.int64], scorers: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Return a model's scores by scorer, in the order of the image ids."""
    scored = drawn.scores["image_id"].to_numpy()  # in ascending order
    if len(scored) != len(ids) or not np.array_equal(scored, np.sort(ids)):
        raise UserError(
            f"{drawn.folder}: {len(scored)} scored images are not the {len(ids)} of the prompts; "
            "draw and score the images of these prompts"
        )
    missing = [name for name in scorers if name not in drawn.scorers]
    if missing:
        raise UserError(f"{drawn.folder}: not scored by {missing[0]}; run score.py --scorers {missing[0]}")
    rows = np.searchsorted(scored, ids)
    return {name: drawn.scores[name].to_numpy()[rows] for name in scorers}


def judge(evaluated: Evaluated, scorer: str, rows: npt.NDArray[np.int64] | None = None) -> dict[str, Any]:
    """Compute the policy's win rate by one scorer, and both medians.

    Args:
        rows: the images that count; by default all.

    Returns:
        value, low and high (0 to 1), n (images), prompts, interval (its name), and median of base and policy.
    """
    chosen = slice(None) if rows is None else rows
    ours = evaluated.policy[scorer][chosen]
    theirs = evaluated.base[scorer][chosen]
    clusters = evaluated.clusters[chosen]
    rate, interval = rate_over_prompts(win_points(ours, theirs), clusters)
    median = {"base": float(np.median(theirs)), "policy": float(np.median(ours))}
    return asdict(rate) | {"prompts": len(np.unique(clusters)), "interval": interval, "median": median}


def break_down(evaluated: Evaluated, columns: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Judge each group by each scorer; return what judge returns, by column, group and scorer."""
    return {
        column: {
            group: {name: judge(evaluated, name, evaluated.where(column, group)) for name in evaluated.policy}
            for group in evaluated.groups(column)
        }
        for column in columns
    }
