"""The paper's shapes on hand-made points: yes, no, undecided, and why."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.reports import feedback_hypotheses
from pipelines.reports.feedback_hypotheses import against, every


def won(share: float, n: int = 100) -> npt.NDArray[np.float64]:
    """Return points of a policy that wins the first so many of n prompts."""
    return (np.arange(n) < round(share * n)).astype(np.float64)


# Of 100 prompts Wilson's interval reaches about 0.10 to each side: 0.7 wins, 0.3 loses, 0.5 is undecided.
PAPER = {
    "human": {"pickscore": won(0.6), "clip": won(0.6), "aesthetics": won(0.5), "oracle": won(0.8)},
    "pickscore": {"pickscore": won(0.8), "clip": won(0.5), "aesthetics": won(0.5), "oracle": won(0.7)},
    "clip": {"pickscore": won(0.6), "clip": won(0.8), "aesthetics": won(0.5), "oracle": won(0.7)},
    "aesthetics": {"pickscore": won(0.5), "clip": won(0.3), "aesthetics": won(0.9), "oracle": won(0.5)},
}


def changed(row: str, judge: str, share: float) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    points = {name: dict(cells) for name, cells in PAPER.items()}
    points[row][judge] = won(share)
    return points


def test_answers_by_hand() -> None:
    assert [against(0.51, 0.6, 0.5), against(0.4, 0.49, 0.5), against(0.4, 0.6, 0.5)] == ["yes", "no", "undecided"]
    assert every(["yes", "yes"]) == "yes"
    assert every(["yes", "undecided"]) == "undecided"
    assert every(["undecided", "no"]) == "no"
    assert every([]) == "not tested"


def test_the_papers_shapes_are_found_where_they_are() -> None:
    found = feedback_hypotheses.answer_all(PAPER)
    assert {name: one.answer for name, one in found.items()} == {
        "own_scorer_wins": "yes",
        "own_scorer_is_highest": "yes",
        "aesthetics_cost_alignment": "yes",  # loses by clip, wins by neither
        "human_labels_win": "yes",
    }
    assert found["own_scorer_wins"].sentence.startswith(
        "Yes, 3 of 3 win by their own scorer: pickscore 80.0 % (71.1 to"
    )


@pytest.mark.parametrize(
    ("row", "judge", "share", "name", "answer"),
    [
        ("clip", "clip", 0.5, "own_scorer_wins", "undecided"),
        ("clip", "clip", 0.2, "own_scorer_wins", "no"),
        ("human", "clip", 0.8, "own_scorer_is_highest", "undecided"),
        ("human", "clip", 0.95, "own_scorer_is_highest", "no"),
        ("aesthetics", "clip", 0.5, "aesthetics_cost_alignment", "undecided"),
        ("aesthetics", "clip", 0.8, "aesthetics_cost_alignment", "no"),
        ("aesthetics", "oracle", 0.8, "aesthetics_cost_alignment", "undecided"),  # clip says loss, the oracle gain
        ("aesthetics", "aesthetics", 0.2, "aesthetics_cost_alignment", "no"),  # nothing was bought
        ("human", "oracle", 0.5, "human_labels_win", "undecided"),
        ("human", "oracle", 0.2, "human_labels_win", "no"),
    ],
)
def test_other_figures_give_other_answers(row: str, judge: str, share: float, name: str, answer: str) -> None:
    found = feedback_hypotheses.answer_all(changed(row, judge, share))[name]
    assert found.answer == answer
    assert found.sentence.startswith(answer.capitalize())


def test_pairing_decides_what_two_intervals_leave_open() -> None:
    # 248 and 220 of 400: the intervals overlap, but the policies differ on 28 prompts, all the same way.
    points = {"clip": {"clip": won(0.62, 400)}, "human": {"clip": won(0.55, 400)}}
    found = feedback_hypotheses.own_scorer_is_highest(points, ["clip"])
    assert found.answer == "yes"
    assert found.parts[0]["nearest"] == "human"
    assert found.parts[0]["difference"] == pytest.approx(28 / 400)


def test_missing_rows_are_not_tested() -> None:
    found = feedback_hypotheses.answer_all({"mine": {"red": won(0.7)}})
    assert {one.answer for one in found.values()} == {"not tested"}
    assert all(one.sentence.startswith("Not tested: it takes") for one in found.values())
