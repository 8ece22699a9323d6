"""Preference accuracy on hand-worked pairs: both tie conventions and the tuned threshold."""

from __future__ import annotations

import numpy as np

from labelers.labels import preference_accuracy


def test_ties_excluded() -> None:
    points = preference_accuracy.untied_points(np.array([1.0, 1.0, 0.0, 1.0]), np.array([1.0, 0.0, 1.0, 0.5]))
    assert points[:3].tolist() == [1.0, 0.0, 0.5]
    assert np.isnan(points[3])


def test_pickscores_convention() -> None:
    # Probabilities (0.9, 0.1), (0.1, 0.9) and (0.55, 0.45), each against a win of slot 0, of slot 1 and a tie.
    logit = np.log([9.0, 1 / 9, 0.55 / 0.45])
    margin = np.repeat(logit, 3)
    human = np.tile([1.0, 0.0, 0.5], 3)
    points = preference_accuracy.tie_points(margin, human, temperature=1.0, threshold=0.2)
    assert points.reshape(3, 3).tolist() == [[1, 0, 0.5], [0, 1, 0.5], [0.5, 0.5, 1]]
    # The threshold is of the probabilities' difference: 0.8 here, and the temperature divides the margin.
    assert preference_accuracy.tie_points(margin[:1], human[:1], 1.0, 0.79)[0] == 1.0
    assert preference_accuracy.tie_points(margin[:1], human[:1], 1.0, 0.81)[0] == 0.5
    assert preference_accuracy.tie_points(2 * margin[:1], human[:1], 2.0, 0.81)[0] == 0.5


def test_a_threshold_of_0_still_predicts_ties_of_equal_scores() -> None:
    assert preference_accuracy.tie_points(np.zeros(1), np.array([0.5]), 1.0, 0.0)[0] == 1.0


def test_the_first_best_threshold_is_taken() -> None:
    gaps = np.array([0.25, 0.35, 0.9])  # differences of probabilities: the first two are ties
    margin = 2 * np.arctanh(gaps)
    assert preference_accuracy.tune_threshold(margin, np.array([0.5, 0.5, 1.0]), 1.0) == 0.4
    assert preference_accuracy.tune_threshold(margin, np.array([1.0, 1.0, 1.0]), 1.0) == 0.0
