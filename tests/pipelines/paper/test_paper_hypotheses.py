"""Each of the paper's claims on made points: answered yes, no and undecided, and in which words."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.paper import paper_hypotheses as hypotheses
from pipelines.paper.paper_hypotheses import INDEPENDENT, LABELLED, ByJudge

Floats = npt.NDArray[np.float64]


def won(share: float, spread: float = 0.0, prompts: int = 200) -> Floats:
    """Return points of three seeds that win a share of the prompts each, a spread apart, at shifted places."""
    shares = share + spread * np.array([-1, 0, 1])
    return np.stack([np.roll(np.arange(prompts) < round(own * prompts), 7 * n) * 1.0 for n, own in enumerate(shares)])


def by(oracle: float, fidelity: float = 0.5, spread: float = 0.0) -> ByJudge:
    return {LABELLED: won(oracle, spread), INDEPENDENT: won(fidelity)}


@pytest.mark.parametrize(
    ("share", "spread", "answer"),
    [(0.7, 0.0, "yes"), (0.3, 0.0, "no"), (0.5, 0.0, "undecided"), (0.7, 0.15, "undecided")],
)
def test_a_win_is_one_over_seeds_too(share: float, spread: float, answer: str) -> None:
    found = hypotheses.wins("It wins.", by(share, 0.7, spread))
    assert (found.answer, found.independent) == (answer, "yes")
    assert found.sentence.startswith(answer.capitalize())
    assert "by fidelity, which labelled nothing, it wins 70.0 % (" in found.sentence
    assert found.parts[0]["per_seed"] == pytest.approx([share - spread, share, share + spread])


@pytest.mark.parametrize(("one", "other", "answer"), [(0.7, 0.5, "yes"), (0.5, 0.7, "no"), (0.55, 0.55, "undecided")])
def test_a_difference_is_paired(one: float, other: float, answer: str) -> None:
    found = hypotheses.wins_more("More.", by(one), by(other), ("DPO", "SFT"))
    assert (found.answer, found.independent) == (answer, "undecided")
    assert "points" in found.sentence


def test_the_answer_is_that_of_the_judge_that_decides() -> None:
    """The judge that labelled finds a gain, the other a loss: a run that pleases only the judge it was trained for."""
    found = hypotheses.wins("It holds.", by(0.8, 0.2), INDEPENDENT)
    assert (found.answer, found.labelled, found.independent) == ("no", "yes", "no")
    assert found.sentence.startswith("No: by fidelity, which labelled nothing, it wins 20.0 % (")
    assert [part["judge"] for part in found.parts] == [INDEPENDENT, LABELLED]
    more = hypotheses.wins_more("More.", by(0.7, 0.5), by(0.5, 0.7), ("a", "b"), INDEPENDENT)
    assert (more.answer, more.labelled) == ("no", "yes")


@pytest.mark.parametrize(
    ("shares", "answer"),
    [
        ((0.3, 0.7, 0.6, 0.4), "yes"),  # beta 500 beats both ends
        ((0.8, 0.6, 0.5, 0.4), "no"),  # the first end beats every inner one
        ((0.4, 0.5, 0.6, 0.8), "no"),
        ((0.5, 0.52, 0.5, 0.5), "undecided"),
        ((0.3, 0.7, 0.6, 0.68), "undecided"),  # above one end, not above the other
    ],
)
def test_an_optimum_is_inner_where_it_beats_both_ends(shares: tuple[float, ...], answer: str) -> None:
    points = {beta: by(share) for beta, share in zip((50, 500, 5000, 50000), shares, strict=True)}
    found = hypotheses.inner_optimum("Inner.", points)
    assert (found.answer, found.independent) == (answer, "undecided")
    parts = [part for part in found.parts if part["judge"] == LABELLED]
    assert [(part["beta"], part["end"]) for part in parts] == [(500, 50), (500, 50000), (5000, 50), (5000, 50000)]


def test_the_choice_among_inner_betas_is_paid_for() -> None:
    points = {beta: by(share) for beta, share in zip((50, 500, 5000), (0.3, 0.7, 0.4), strict=True)}
    wider = hypotheses.inner_optimum("Inner.", points).parts[0]
    alone = hypotheses.wins_more("More.", points[500], points[50], ("a", "b")).parts[0]
    assert wider["value"] == alone["value"]
    assert wider["low"] < alone["low"]


def scores(mean: float) -> Floats:
    return np.random.default_rng(0).normal(mean, 0.1, 60)


@pytest.mark.parametrize(
    ("share", "winners", "answer"),
    [(0.7, 0.4, "yes"), (0.7, 0.9, "no"), (0.3, 0.4, "no"), (0.5, 0.4, "undecided"), (0.7, 0.701, "undecided")],
)
def test_weaker_images_must_be_worse_and_help(share: float, winners: float, answer: str) -> None:
    same = {"losers": scores(0.3), "winners": scores(winners), "base": scores(0.7)}
    found = hypotheses.weaker_images_help(by(share), {LABELLED: same, INDEPENDENT: same})
    assert found.answer == answer
    assert "its losers score -0.4 (" in found.sentence


def test_feedback_is_tested_over_seeds() -> None:
    rows = {name: {judge: won(0.5) for judge in ("pickscore", "clip", LABELLED, INDEPENDENT)} for name in
            ("human", "pickscore", "clip")}  # fmt: skip
    rows["pickscore"]["pickscore"], rows["clip"]["clip"] = won(0.75), won(0.75)
    rows["human"][LABELLED], rows["human"][INDEPENDENT] = won(0.7), won(0.3)
    found = hypotheses.feedback(rows)
    assert found["own_scorer_wins"].answer == found["own_scorer_is_highest"].answer == "yes"
    assert (found["human_labels_win"].answer, found["human_labels_win"].independent) == ("yes", "no")
    rows["clip"]["clip"] = won(0.75, spread=0.24)  # the same mean, of seeds that differ
    assert hypotheses.feedback(rows)["own_scorer_wins"].answer == "undecided"


@pytest.mark.parametrize(("share", "answer"), [(0.7, "yes"), (0.3, "no"), (0.5, "undecided")])
def test_implicit_reward_against_chance_and_against_scorers(share: float, answer: str) -> None:
    prompts, right = np.arange(200), won(share)
    found = hypotheses.implicit_reward(right, won(0.5), {"clip": won(0.5)[0]}, prompts)
    assert found["above_chance"].answer == found["above_every_scorer"].answer == answer
    assert found["above_chance"].independent == "undecided"


def test_above_every_scorer_takes_all_of_them() -> None:
    scorers = {"clip": won(0.5)[0], "pickscore": won(0.9)[0]}
    found = hypotheses.implicit_reward(won(0.7), won(0.5), scorers, np.arange(200))
    assert found["above_every_scorer"].answer == "no"


@pytest.mark.parametrize(("draws", "answer"), [((9, 40), "yes"), ((1, 3), "no"), ((1, 10), "undecided")])
def test_rejection_against_its_null(draws: tuple[int, int], answer: str) -> None:
    counts = np.random.default_rng(0).integers(*draws, size=(3, 60)).astype(np.float64)
    counts[:, :3] = 1.0
    found = hypotheses.rejection_sampling({LABELLED: counts, INDEPENDENT: counts}, 5.19)
    assert (found.answer, found.independent) == (answer, answer)
    assert "against 5.19 (median 1) for equals" in found.sentence
    assert found.parts[0]["low"] >= 1.0


def test_a_draw_of_the_base_itself_is_not_beyond_the_null() -> None:
    # Simulated: N of equals, capped at 100, P(N > k) = 1 / (k + 1). A claim of "yes" must be rare.
    rng, null = np.random.default_rng(0), float((1 / np.arange(1, 101)).sum())
    answers = []
    for _ in range(200):
        counts = np.minimum(np.ceil(1 / rng.random((3, 60)) - 1).clip(1), 100).astype(np.float64)
        answers.append(hypotheses.rejection_sampling({LABELLED: counts, INDEPENDENT: counts}, null).answer)
    assert null == pytest.approx(5.19, abs=0.01)
    assert answers.count("yes") / 200 <= 0.05
