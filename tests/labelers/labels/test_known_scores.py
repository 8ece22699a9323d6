"""Scores that are known already, and answers that a judge gave when it was asked again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from labelers.labels import known_scores, label_set, labelling
from labelers.labels.label_set import Scores

LOST = "no answer: 503"

# Of five pairs two have scores; two have no answer yet, and one never will.
BEFORE = Scores(
    pair_ids=np.array([10, 40]),
    values=np.array([[0.1, 0.4], [0.2, 0.3]], np.float32),
    refused={20: LOST, 30: LOST, 50: "score is not finite"},
    captions=3,
    truncated_captions=1,
    counted={"prompt_tokens": 100, "cost": 9.0},
)


def asked_again() -> pa.Table:
    """Return a pass over 20 and 30, and 40, which was not lost: 20 is answered, 30 is lost again."""
    return pa.table(
        {
            "pair_id": [20, 30, 40],
            "prompt_id": [1, 2, 3],
            "score_0:judge": pa.array([1.0, None, 7.0], pa.float32()),
            "score_1:judge": pa.array([0.0, None, 7.0], pa.float32()),
            "reason:judge": [None, LOST, None],
            "truncated:judge": [False, False, False],
            "prompt_tokens:judge": [5, 0, 70],
            "completion_tokens:judge": [2, 0, 70],
        }
    )


def test_answers_take_the_place_of_what_was_lost_and_of_nothing_else() -> None:
    now = known_scores.with_answers(BEFORE, asked_again(), "judge")
    assert now.pair_ids.tolist() == [10, 20, 40]
    assert now.values.tolist() == pytest.approx(np.array([[0.1, 1.0, 0.4], [0.2, 0.0, 0.3]], np.float32))
    assert now.refused == {30: LOST, 50: "score is not finite"}
    assert now.counted == {"prompt_tokens": 105, "completion_tokens": 2}  # the cost is found anew from these
    assert (now.captions, now.truncated_captions) == (3, 1)


def test_only_pairs_without_an_answer_are_asked_again() -> None:
    assert known_scores.unanswered({30: LOST, 50: "score is not finite", 20: LOST}) == [20, 30]
    assert known_scores.count_unanswered({"reasons": {LOST: 2, "no answer: timeout": 3, "image is null": 7}}) == 5
    assert known_scores.count_unanswered({}) == 0


def test_columns_of_a_scorer_are_cut_out_of_a_pass() -> None:
    table = pa.table(
        {
            "pair_id": [1, 2, 3, 4],
            "prompt_id": [7, 7, 8, 9],
            "score_0:a": pa.array([0.5, None, 0.25, 1.0], pa.float32()),
            "score_1:a": pa.array([0.75, None, 0.5, 2.0], pa.float32()),
            "reason:a": [None, "image_0: bad", None, None],
            "truncated:a": [True, True, False, True],
        }
    )
    own = label_set.columns_of(table, "a")
    assert own.pair_ids.tolist() == [1, 3, 4]
    assert own.values.tolist() == [[0.5, 0.25, 1.0], [0.75, 0.5, 2.0]]
    assert own.refused == {2: "image_0: bad"}
    assert (own.captions, own.truncated_captions) == (3, 2)  # each caption once: 7 and 9 are cut
    assert own.counted == {}


def test_what_tokens_cost() -> None:
    tokens = {"prompt_tokens": 2_000_000, "completion_tokens": 500_000}
    assert labelling.with_cost(tokens, (0.5, 3.0)) == {**tokens, "cost": 2 * 0.5 + 0.5 * 3.0}
    assert labelling.with_cost(tokens, None) == tokens
    assert labelling.with_cost({}, (0.5, 3.0)) == {}
