"""The shapes of the paper's Fig. 6 as hypotheses, each answered from intervals: yes, no or undecided.

Rows are policies, named by the label set they were trained on; columns are judges. A row wins where its interval lies
above 0.5. Whether it wins more often than another row is asked prompt by prompt (win_rate.paired_difference). Where a
row is several training runs, the intervals are of seeds and prompts (pipelines/judging/seed_intervals.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipelines.judging.seed_intervals import Estimate, crossed_mean, crossed_rate
from pipelines.judging.win_rate import Difference, WinRate, paired_difference, rate_of

Answer = Literal["yes", "no", "undecided", "not tested"]
# By row and judge, points against the base: [n], one a prompt, or [seeds, n] of several training runs.
Points = Mapping[str, Mapping[str, npt.NDArray[np.float64]]]
SCORERS = ("pickscore", "hpsv2", "clip", "aesthetics")  # of the paper's figure
ALIGNMENT = ("oracle", "clip")  # judges that look at whether the image shows its caption


@dataclass(frozen=True)
class Hypothesis:
    """A claim, its answer, the answer in one sentence, and the figures behind it."""

    claim: str
    answer: Answer
    sentence: str
    parts: list[dict[str, Any]]


def against(low: float, high: float, level: float) -> Answer:
    """Say whether an interval lies above a level: yes, no where it lies below, else undecided."""
    return "yes" if low > level else "no" if high < level else "undecided"


def every(answers: Iterable[Answer]) -> Answer:
    """Join answers by and: yes where all are, no where one is."""
    given = set(answers)
    if not given:
        return "not tested"
    if "no" in given:
        return "no"
    return "yes" if given == {"yes"} else "undecided"


def answer_all(points: Points) -> dict[str, Hypothesis]:
    """Test each of the paper's shapes that these rows and judges allow."""
    own = [name for name in SCORERS if name in points and name in points[name]]
    return {
        "own_scorer_wins": own_scorer_wins(points, own),
        "own_scorer_is_highest": own_scorer_is_highest(points, own),
        "aesthetics_cost_alignment": aesthetics_cost_alignment(points),
        "human_labels_win": human_labels_win(points),
    }


def own_scorer_wins(points: Points, own: list[str]) -> Hypothesis:
    """Ask whether each policy beats the base by the scorer that labelled its training data: the diagonal."""
    claim = "Each policy wins by the scorer that labelled its training data."
    parts = [_part(points, name, name) for name in own]
    rates = ", ".join(f"{part['judge']} {_percent(part)}" for part in parts)
    return _decided(claim, parts, f"{_share(parts)} of {len(parts)} win by their own scorer: {rates}.")


def own_scorer_is_highest(points: Points, own: list[str]) -> Hypothesis:
    """Ask whether no other policy does as well by a scorer as the one trained on its labels."""
    claim = "Each policy wins more often by its own scorer than any other policy does."
    parts = []
    gaps = []
    for name in own:
        others = {other: _difference(points[name][name], points[other][name]) for other in points}
        del others[name]
        if not others:
            continue
        answers = {other: against(gap.low, gap.high, 0.0) for other, gap in others.items()}
        nearest = min(others, key=lambda other: others[other].value)
        gap = others[nearest]
        parts.append(
            {"judge": name, "answer": every(answers.values()), "nearest": nearest, "difference": gap.value,
             "low": gap.low, "high": gap.high, "n": gap.n, "by_row": answers}
        )  # fmt: skip
        span = f"{100 * gap.low:+.1f} to {100 * gap.high:+.1f}"
        gaps.append(f"{name} {100 * gap.value:+.1f} points over the {nearest} row ({span})")
    shown = f"{_share(parts)} of {len(parts)} are shown to be the highest in their column: {'; '.join(gaps)}."
    return _decided(claim, parts, shown)


def aesthetics_cost_alignment(points: Points) -> Hypothesis:
    """Ask whether training on aesthetics gains by aesthetics and loses by the judges of alignment.

    Yes where it gains, loses by one of those judges and wins by none; no where it gains by them and loses by none, or
    does not gain by aesthetics in the first place.
    """
    claim = "Labels of aesthetics, which sees no caption, buy aesthetics at the cost of alignment."
    row = points.get("aesthetics", {})
    judges = [name for name in ALIGNMENT if name in row]
    if not judges or "aesthetics" not in row:
        return _not_tested(claim, "it takes the row aesthetics, judged by aesthetics and by oracle or clip")
    parts = [_part(points, "aesthetics", name) for name in ("aesthetics", *judges)]
    gain = parts[0]["answer"]
    alignment = {part["answer"] for part in parts[1:]}
    cost: Answer = "undecided"
    if {"yes", "no"} & alignment and not {"yes", "no"} <= alignment:  # decided by one, contradicted by none
        cost = "yes" if "no" in alignment else "no"
    rates = ", ".join(f"{_percent(part)} by {part['judge']}" for part in parts)
    answer = every([gain, cost])
    return Hypothesis(claim, answer, f"{answer.capitalize()}: the policy trained on aesthetics wins {rates}.", parts)


def human_labels_win(points: Points) -> Hypothesis:
    """Ask whether training on the human labels wins by the oracle, which plays the humans."""
    claim = "Human labels win by the oracle, which plays the humans."
    if "oracle" not in points.get("human", {}):
        return _not_tested(claim, "it takes the row human, judged by oracle")
    part = _part(points, "human", "oracle")
    rate = f"the policy trained on human labels wins {_percent(part)} by the oracle"
    return Hypothesis(claim, part["answer"], f"{part['answer'].capitalize()}: {rate}.", [part])


def _rate(points: npt.NDArray[np.float64]) -> WinRate | Estimate:
    return rate_of(points) if points.ndim == 1 else crossed_rate(points)


def _difference(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> Difference | Estimate:
    return paired_difference(one, other) if one.ndim == 1 else crossed_mean(one - other)


def _part(points: Points, row: str, judge: str) -> dict[str, Any]:
    rate = _rate(points[row][judge])
    answer = against(rate.low, rate.high, 0.5)
    return {"row": row, "judge": judge, "answer": answer, "value": rate.value, "low": rate.low, "high": rate.high,
            "n": rate.n}  # fmt: skip


def _decided(claim: str, parts: list[dict[str, Any]], shown: str) -> Hypothesis:
    answer = every(part["answer"] for part in parts)
    if answer == "not tested":
        return _not_tested(claim, f"it takes rows trained on labels of {', '.join(SCORERS)}")
    return Hypothesis(claim, answer, f"{answer.capitalize()}, {shown}", parts)


def _not_tested(claim: str, why: str) -> Hypothesis:
    return Hypothesis(claim, "not tested", f"Not tested: {why}.", [])


def _share(parts: list[dict[str, Any]]) -> int:
    return sum(part["answer"] == "yes" for part in parts)


def _percent(part: Mapping[str, Any]) -> str:
    return f"{100 * part['value']:.1f} % ({100 * part['low']:.1f} to {100 * part['high']:.1f})"
