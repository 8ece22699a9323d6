"""What the paper's experimental section shows, as hypotheses, each answered from intervals: yes, no or undecided.

The answer is that of the judge that drew the human labels; in the paper, people are that judge. The same question goes
to a judge that labelled nothing. Where runs may fall apart, that judge's answer counts, because a run that does can
still please the judge it was trained for. Intervals are over seeds and prompts (pipelines/judging/seed_intervals.py).
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

LABELLED = "oracle"  # the judge that drew the human labels
INDEPENDENT = "fidelity"  # a judge that labelled nothing
Floats = npt.NDArray[np.float64]
ByJudge = Mapping[str, Floats]  # points [seeds, prompts] against the base
Parts = list[dict[str, Any]]
Asked = tuple[Answer, str, Parts]  # of one judge: its answer, the figures in words, the figures


@dataclass(frozen=True)
class Tested(Hypothesis):
    """A hypothesis, and what each of the two judges answers; one of these is the hypothesis's answer."""

    labelled: Answer
    independent: Answer


def ask(claim: str, question: Callable[[str], Asked], decides: str = LABELLED) -> Tested:
    """Put a question to both judges; the answer of the one that decides counts, and it is told first."""
    asked = {judge: question(judge) for judge in (LABELLED, INDEPENDENT)}
    order = sorted(asked, key=lambda judge: judge != decides)
    remarks = {LABELLED: "", INDEPENDENT: ", which labelled nothing,"}
    by_judge = "; ".join(f"by {judge}{remarks[judge]} {asked[judge][1]}" for judge in order)
    answer = asked[decides][0]
    return Tested(
        claim=claim,
        answer=answer,
        sentence=f"{answer.capitalize()}: {by_judge}.",
        parts=[part for judge in order for part in asked[judge][2]],
        labelled=asked[LABELLED][0],
        independent=asked[INDEPENDENT][0],
    )


def wins(claim: str, points: ByJudge, decides: str = LABELLED) -> Tested:
    """Ask whether a policy's images win more than half of the prompts."""

    def question(judge: str) -> Asked:
        part = _part(crossed_rate(points[judge]), 0.5, judge=judge)
        return part["answer"], f"it wins {percent(part)}", [part]

    return ask(claim, question, decides)


def wins_more(claim: str, one: ByJudge, other: ByJudge, names: tuple[str, str], decides: str = LABELLED) -> Tested:
    """Ask whether one policy wins more often over the base than another, prompt by prompt and seed by seed."""

    def question(judge: str) -> Asked:
        part = _part(crossed_mean(one[judge] - other[judge]), 0.0, judge=judge, one=names[0], other=names[1])
        return part["answer"], f"{gain(part)} for {names[0]} over {names[1]}", [part]

    return ask(claim, question, decides)


def inner_optimum(claim: str, points: Mapping[int, ByJudge]) -> Tested:
    """Ask whether some beta inside the swept range wins more often than both ends of it.

    Yes where one inner beta's paired differences to both ends lie above 0; no where one end lies above every inner
    beta; the intervals are Bonferroni's for as many chances, so that picking the best beta is paid for.

    Args:
        points: by beta, ascending; at least three.
    """
    betas = list(points)
    inner = betas[1:-1]
    ends = (betas[0], betas[-1])
    confidence = 1 - 0.05 / max(len(inner), len(ends))

    def question(judge: str) -> Asked:
        parts = []
        for beta in inner:
            for end in ends:
                difference = crossed_mean(points[beta][judge] - points[end][judge], confidence)
                parts.append(_part(difference, 0.0, judge=judge, beta=beta, end=end))
        above = any(all(part["answer"] == "yes" for part in parts if part["beta"] == beta) for beta in inner)
        below = any(all(part["answer"] == "no" for part in parts if part["end"] == end) for end in ends)
        answer: Answer = "yes" if above else "no" if below else "undecided"
        rates = {beta: float(points[beta][judge].mean()) for beta in betas}
        best = max(rates, key=rates.__getitem__)
        middle = max(inner, key=rates.__getitem__)
        over = " and ".join(f"{gain(part)} over β {part['end']:g}" for part in parts if part["beta"] == middle)
        words = f"β {best:g} wins most ({100 * rates[best]:.1f} %), and the best inner one, β {middle:g}, {over}"
        return answer, words, parts

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
        words = f"{shares} against the base’s own images, and the policy wins {percent(won)}"
        return every([*(part["answer"] for part in parts), won["answer"]]), words, [*parts, won]

    claim = "DPO improves the base although even the winners it trains on are worse than the base’s images."
    return ask(claim, question)


def _welch(one: Floats, other: Floats) -> Estimate:
    """Subtract means of two independent samples, with Welch's interval."""
    interval = ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    value = float(one.mean() - other.mean())
    return Estimate(
        value=value, low=float(interval.low), high=float(interval.high), n=len(one), seeds=1, per_seed=[value]
    )


def feedback(points: Mapping[str, ByJudge]) -> dict[str, Tested]:
    """Test Fig. 6's shapes over seeds; points by row and judge."""
    answered = feedback_hypotheses.answer_all(points)
    independent: dict[str, Answer] = dict.fromkeys(answered, "not tested")
    own = crossed_rate(points["human"][INDEPENDENT])
    independent["human_labels_win"] = against(own.low, own.high, 0.5)
    return {
        name: Tested(**asdict(one), labelled=one.answer, independent=independent[name])
        for name, one in answered.items()
    }


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
    words = (
        f"it prefers the winner of {percent(part)} of held-out pairs, and {INDEPENDENT}’s choice of {percent(other)}"
    )
    chance = Tested(
        claim="The implicit reward prefers the human winner more often than chance.",
        answer=part["answer"],
        sentence=f"{part['answer'].capitalize()}: {words}.",
        parts=[part, other],
        labelled=part["answer"],
        independent=other["answer"],
    )
    parts = [
        _part(clustered_mean(right - own, prompts), 0.0, judge="human labels", scorer=name)
        for name, own in scorers.items()
    ]
    answer = every(one["answer"] for one in parts)
    shown = "; ".join(f"{gain(one)} over {one['scorer']}" for one in parts)
    better = Tested(
        claim="The implicit reward is right more often than every scorer.",
        answer=answer,
        sentence=f"{answer.capitalize()}: {shown}.",
        parts=parts,
        labelled=answer,
        independent="not tested",
    )
    return {"above_chance": chance, "above_every_scorer": better}


def rejection_sampling(draws: ByJudge, null_mean: float) -> Tested:
    """Ask whether one image of the policy takes more images of the base to beat than if the models were the same.

    Args:
        draws: by judge, [seeds, captions] number of base images; captions without a win count as the cap.
        null_mean: the mean number where policy and base are the same.
    """

    def question(judge: str) -> Asked:
        part = _part(mean_draws(draws[judge]), null_mean, judge=judge, median=float(np.median(draws[judge])))
        span = f"{part['low']:.1f} to {part['high']:.1f}; median {part['median']:g}"
        words = f"a draw is worth {part['value']:.1f} of the base ({span})"
        return part["answer"], f"{words}, against {null_mean:.2f} (median 1) for equals", [part]

    return ask("One draw of the policy is worth more draws of the base than equals would need.", question)


def mean_draws(draws: Floats) -> Estimate:
    """Compute the mean of draws [seeds, captions], each at least 1, and its interval, cut off at 1."""
    mean = crossed_mean(draws)
    return replace(mean, low=max(1.0, mean.low))


def _part(estimate: Estimate, level: float, **named: Any) -> dict[str, Any]:
    return named | {"answer": against(estimate.low, estimate.high, level)} | asdict(estimate)


def percent(part: Mapping[str, Any]) -> str:
    """Write a rate with its interval."""
    return f"{100 * part['value']:.1f} % ({100 * part['low']:.1f} to {100 * part['high']:.1f})"


def gain(part: Mapping[str, Any]) -> str:
    """Write a difference of rates with its interval."""
    return f"{100 * part['value']:+.1f} points ({100 * part['low']:+.1f} to {100 * part['high']:+.1f})"
