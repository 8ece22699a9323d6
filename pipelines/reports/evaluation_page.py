"""The evaluation as one HTML page that loads nothing from elsewhere; its pairs of images are flipped through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.pages.made import describe
from infra.pages.page import data_uri
from pipelines.drawing.image_flags import shown_contents
from pipelines.judging.comparison import Images
from pipelines.judging.evaluation import ENOUGH_PROMPTS, Evaluated
from pipelines.judging.win_rate import BOOTSTRAP
from pipelines.reports.judges import judge_titles
from pipelines.reports.report_page import IMAGE_SIDE, fill, flags_of

SHOWN = 8  # pairs of a section
SHOWN_UNJUDGED = 24  # pairs where no judge chose the best and the worst
SHOWN_OF_GROUP = 3  # pairs of a group of prompts
GROUPS_SHOWN = 24  # PartiPrompts has 12 categories and 11 challenges; more would be a page of many megabytes


def choose(evaluated: Evaluated, judge: str | None, columns: list[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Choose rows to show, by title: the policy's largest gains, its largest losses, some at random, some per group.

    Where nobody judged there are no gains and losses, and more at random.
    """
    rng = np.random.default_rng(0)
    order = rng.permutation(evaluated.wanted.num_rows)
    if judge is None:
        chosen = {"At random": order[:SHOWN_UNJUDGED]}
    else:
        chosen = _extremes(evaluated, judge) | {"At random": order[:SHOWN]}
    for column, group in list(_groups(evaluated, columns))[:GROUPS_SHOWN]:
        chosen[f"{column}: {group}"] = rng.permutation(evaluated.where(column, group))[:SHOWN_OF_GROUP]
    return {title: rows for title, rows in chosen.items() if len(rows)}


def _extremes(evaluated: Evaluated, judge: str) -> dict[str, npt.NDArray[np.int64]]:
    gain = evaluated.policy[judge].astype(np.float64) - evaluated.base[judge]
    worst = np.argsort(gain, kind="stable")
    best = worst[::-1]
    return {
        "Best: the policy’s largest gains": best[gain[best] > 0][:SHOWN],
        "Worst: the policy’s largest losses": worst[gain[worst] < 0][:SHOWN],
    }


def _groups(evaluated: Evaluated, columns: list[str]) -> Iterator[tuple[str, str]]:
    for column in columns:
        for group in evaluated.groups(column):
            yield column, group


def image_pairs(
    evaluated: Evaluated, policy: Images, base: Images, judge: str | None, columns: list[str]
) -> dict[str, Any]:
    """Read and embed the chosen pairs, by title."""
    chosen = choose(evaluated, judge, columns)
    keys = evaluated.wanted["image_id"].to_pylist()
    ids = sorted({keys[row] for rows in chosen.values() for row in rows})
    left = shown_contents(base.folder, ids)
    right = shown_contents(policy.folder, ids)
    flags = flags_of({"base": base.folder, "policy": policy.folder})

    def show(row: int) -> dict[str, Any]:
        return {
            "caption": evaluated.prompts[row].caption,
            "flags": flags(keys[row]),
            "base": data_uri(left[keys[row]], IMAGE_SIDE),
            "policy": data_uri(right[keys[row]], IMAGE_SIDE),
            "base_score": float(evaluated.base[judge][row]) if judge else None,
            "policy_score": float(evaluated.policy[judge][row]) if judge else None,
        }

    return {title: [show(int(row)) for row in rows] for title, rows in chosen.items()}


def render(report: dict[str, Any], evaluated: Evaluated, columns: list[str], policy: Images, base: Images) -> str:
    """Lay the evaluation out; every text in it is escaped.

    Args:
        report: what report.json holds.
        columns: the prompts' groups.
    """
    cells = [cell for groups in report["breakdown"].values() for group in groups.values() for cell in group.values()]
    return fill(
        "evaluation.html.jinja" if report["judge"] else "side_by_side.html.jinja",
        report,
        pairs=image_pairs(evaluated, policy, base, report["judge"], columns),
        unshown=max(0, len(list(_groups(evaluated, columns))) - GROUPS_SHOWN),
        titles=judge_titles(base.folder, report["win_rate"]),
        made=describe(report["command"]),
        fewest=ENOUGH_PROMPTS
        if any(cell["interval"] == BOOTSTRAP and cell["prompts"] < ENOUGH_PROMPTS for cell in cells)
        else None,
    )
