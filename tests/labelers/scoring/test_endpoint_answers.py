"""How a judge's answers are read: a score, or a verdict on two images."""

from __future__ import annotations

import pytest

from labelers.scoring import endpoint_answers


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('Fine. {"score": 7.25}', 7.25),
        ('First {"score": 2}, no: {"score": "6"}', 6.0),
        ("Alignment Score (1-5): 2.5\nCoherence Score (1-5): 3\nStyle Score (1-5): 4.1\n", 3.2),  # (2.5 + 3 + 4.1) / 3
        ("Coherence score: 1\nFinal Score: 4", 4.0),
        ('<think>{"score": 1}</think>{"score": 9}', 9.0),
        ("8/10", 8.0),
        ("-1.5", -1.5),
        ("I like it, 3 stars out of many.", None),
        ('{"score": high}', None),
        (f'{{"score": 1{"0" * 400}}}', None),  # no finite number
    ],
)
def test_a_score_is_read(answer: str, score: float | None) -> None:
    assert endpoint_answers.read_score(answer) == (score if score is None else pytest.approx(score))


@pytest.mark.parametrize(
    ("answer", "points"),
    [
        ('{"winner": 1}', 1.0),
        ('{"winner": "2"}', 0.0),
        ('Image 2 is better, at first. {"winner": "tie"}', 0.5),
        ("<answer>Image 1 is better</answer>", 1.0),
        ("Image 2 is slightly better", 0.0),
        ("winner: Image 2", 0.0),
        # UnifiedReward 2.0's three aspects: 0.4 + 0.7 + 0.3 = 1.4 against 1.6
        ("Alignment Score:\n Image 1: 0.4\n Image 2: 0.6\nCoherence Score:\n Image 1: 0.7\n Image 2: 0.3\n"
         "Style Score:\n Image 1: 0.3\n Image 2: 0.7", 0.0),
        ("Image 1: 0.5\nImage 2: 0.5", 0.5),
        ("Image 1: 0.5", None),
        ("Both are lovely.", None),
        ('<think>{"winner": 1}</think>', None),
    ],
)  # fmt: skip
def test_a_verdict_is_read(answer: str, points: float | None) -> None:
    assert endpoint_answers.read_verdict(answer) == points
