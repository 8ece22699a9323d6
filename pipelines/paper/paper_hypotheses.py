"""What the paper's experimental section shows, as hypotheses, each answered from intervals: yes, no or undecided.

The answer is that of the judge that drew the human labels, whose part people play in the paper; the same is asked of a
judge that labelled nothing. All intervals are over seeds and prompts (pipelines/judging/seed_intervals.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import ttest_ind

from pipelines.judging.seed_intervals import Estimate, clustered_mean, clustered_rate, crossed_mean, crossed_rate
from pipelines.reports import feedback_hypotheses
from pipelines.reports.feedback_hypotheses import Answer, Hypothesis, against, every

LABELLED, INDEPENDENT = "oracle", "fidelity"  # the judge that drew the human labels; one that labelled nothing
Floats = npt.NDArray[np.float64]
ByJudge = Mapping[str, Floats]  # points [seeds, prompts] against the base
Parts = list[dict[str, Any]]
Asked = tuple[Answer, str, Parts]  # of one judge: its answer, the figures in words, the figures


@dataclass(frozen=True)
class Tested(Hypothesis):
    """A hypothesis, and what the judge that labelled nothing answers."""

    independent: Answer


def ask(claim: str, question: Callable[[str], Asked]) -> Tested:
    """Put a question to both judges; the first one's answer counts."""
    (answer, told, parts), (other, also, others) = question(LABELLED), question(INDEPENDENT)
    sentence = f"{answer.capitalize()}: by {LABELLED} {told}; by {INDEPENDENT}, which labelled nothing, {also}."
    return Tested(claim, answer, sentence, [*parts, *others], other)


def wins(claim: str, points: ByJudge) -> Tested:
    """Ask whether a policy's images win more than half of the prompts."""

    def question(judge: str) -> Asked:
        part = _part(crossed_rate(points[judge]), 0.5, judge=judge)
        return part["answer"], f"it wins {percent(part)}", [part]

    return ask(claim, question)


def wins_more(claim: str, one: ByJudge, other: ByJudge, names: tuple[str, str]) -> Tested:
    """Ask whether one policy wins more often over the base than another, prompt by prompt and seed by seed."""

    def question(judge: str) -> Asked:
        part = _part(crossed_mean(one[judge] - other[judge]), 0.0, judge=judge, one=names[0], other=names[1])
        return part["answer"], f"{gain(part)} for {names[0]} over {names[1]}", [part]

    return ask(claim, question)


def inner_optimum(claim: str, points: Mapping[int, ByJudge]) -> Tested:
    """Ask whether some beta inside the swept range wins more often than both ends of it.

    Yes where one inner beta's paired differences to both ends lie above 0; no where one end lies above every inner
    beta; the intervals are Bonferroni's for as many chances, so that picking the best beta is paid for.

    Args:
        points: by beta, ascending; at least three.
    """
    betas = list(points)
    inner, ends = betas[1:-1], (betas[0], betas[-1])
    confidence = 1 - 0.05 / max(len(inner), len(ends))

    def question(judge: str) -> Asked:
        parts = []
        for beta in inner:
            for end in ends:
                found = crossed_mean(points[beta][judge] - points[end][judge], confidence)
                parts.append(_part(found, 0.0, judge=judge, beta=beta, end=end))
        above = any(all(part["answer"] == "yes" for part in parts if part["beta"] == beta) for beta in inner)
        below = any(all(part["answer"] == "no" for part in parts if part["end"] == end) for end in ends)
        answer: Answer = "yes" if above else "no" if below else "undecided"
        rates = {beta: float(points[beta][judge].mean()) for beta in betas}
        best, middle = max(rates, key=rates.__getitem__), max(inner, key=rates.__getitem__)
        over = " and ".join(f"{gain(part)} over β {part['end']:g}" for part in parts if part["beta"] == middle)
        told = f"β {best:g} wins most ({100 * rates[best]:.1f} %), and the best inner one, β {middle:g}, {over}"
        return answer, told, parts

    return ask(claim, question)


def weaker_images_help(points: ByJudge, images: Mapping[str, Mapping[str, Floats]]) -> Tested:
    """Ask whether training on images worse than the base's own helps: Fig. 7's surprise.

    Args:
        points: of the policy trained on them.
        images: by judge: scores of the training pairs' losers and winners and of the base's own images, [n] each, one
            (mean) score per caption.
    """

    def question(judge: str) -> Asked:
        parts = []
        for kind in ("losers", "winners"):
            gap = _welch(images[judge][kind], images[judge]["base"])
            answer = against(-gap.high, -gap.low, 0.0)  # whether they are worse
            parts.append({"judge": judge, "images": kind, "answer": answer} | asdict(gap))
        won = _part(crossed_rate(points[judge]), 0.5, judge=judge)
        shares = " and ".join(
            f"its {part['images']} score {part['value']:+.3g} ({part['low']:+.3g} to {part['high']:+.3g})"
            for part in parts
        )
        told = f"{shares} against the base’s own images, and the policy wins {percent(won)}"
        return every([*(part["answer"] for part in parts), won["answer"]]), told, [*parts, won]

    claim = "DPO improves the base although even the winners it trains on are worse than the base’s images."
    return ask(claim, question)


def _welch(one: Floats, other: Floats) -> Estimate:
    """Subtract means of two independent samples, with Welch's interval."""
    interval = ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    value = float(one.mean() - other.mean())
    return Estimate(value, float(interval.low), float(interval.high), len(one), 1, [value])


def feedback(points: Mapping[str, ByJudge]) -> dict[str, Tested]:
    """Test Fig. 6's shapes over seeds; points by row and judge."""
    found = feedback_hypotheses.answer_all(points)
    independent: dict[str, Answer] = dict.fromkeys(found, "not tested")
    own = crossed_rate(points["human"][INDEPENDENT])
    independent["human_labels_win"] = against(own.low, own.high, 0.5)
    return {name: Tested(**asdict(one), independent=independent[name]) for name, one in found.items()}


def implicit_reward(
    right: Floats, agrees: Floats, scorers: Mapping[str, Floats], prompts: npt.NDArray[np.int64]
) -> dict[str, Tested]:
    """Test Tab. 2: whether implicit rewards prefer what people preferred, and more often than the scorers do.

    Args:
        right: [seeds, pairs] points of the implicit reward against the human labels.
        agrees: [seeds, pairs] points against the order of the judge that labelled nothing.
        scorers: by name, [pairs] points against the human labels.
        prompts: [pairs] prompt of each pair.
    """
    part = _part(clustered_rate(right, prompts), 0.5, judge="human labels")
    other = _part(clustered_rate(agrees, prompts), 0.5, judge=INDEPENDENT)
    told = f"it prefers the winner of {percent(part)} of held-out pairs, and {INDEPENDENT}’s choice of {percent(other)}"
    chance = Tested("The implicit reward prefers the human winner more often than chance.", part["answer"],
                    f"{part['answer'].capitalize()}: {told}.", [part, other], other["answer"])  # fmt: skip
    parts = [
        _part(clustered_mean(right - own, prompts), 0.0, judge="human labels", scorer=name)
        for name, own in scorers.items()
    ]
    answer = every(one["answer"] for one in parts)
    shown = "; ".join(f"{gain(one)} over {one['scorer']}" for one in parts)
    better = Tested("The implicit reward is right more often than every scorer.", answer,
                    f"{answer.capitalize()}: {shown}.", parts, "not tested")  # fmt: skip
    return {"above_chance": chance, "above_every_scorer": better}


def rejection_sampling(draws: ByJudge, null_mean: float) -> Tested:
    """Ask whether one draw of the policy is worth more draws of the base than it would be, were the two the same.

    Args:
        draws: by judge, [seeds, captions] number of base draws, those that never won counted as the cap.
        null_mean: of the same, for policy = base.
    """

    def question(judge: str) -> Asked:
        part = _part(mean_draws(draws[judge]), null_mean, judge=judge, median=float(np.median(draws[judge])))
        span = f"{part['low']:.1f} to {part['high']:.1f}; median {part['median']:g}"
        told = f"a draw is worth {part['value']:.1f} of the base ({span})"
        return part["answer"], f"{told}, against {null_mean:.2f} (median 1) for equals", [part]

    return ask("One draw of the policy is worth more draws of the base than equals would need.", question)


def mean_draws(draws: Floats) -> Estimate:
    """Compute the mean of draws [seeds, captions], at least 1 each, and its interval, which ends there too."""
    found = crossed_mean(draws)
    return replace(found, low=max(1.0, found.low))


def _part(found: Estimate, level: float, **named: Any) -> dict[str, Any]:
    return named | {"answer": against(found.low, found.high, level)} | asdict(found)


def percent(part: Mapping[str, Any]) -> str:
    """Write a rate with its interval."""
    return f"{100 * part['value']:.1f} % ({100 * part['low']:.1f} to {100 * part['high']:.1f})"


def gain(part: Mapping[str, Any]) -> str:
    """Write a difference of rates with its interval."""
    return f"{100 * part['value']:+.1f} points ({100 * part['low']:+.1f} to {100 * part['high']:+.1f})"
