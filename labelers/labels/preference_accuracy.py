"""Preference accuracy, the paper's Tab. 2: how often a scorer prefers the image that people preferred.

Two conventions. Ties excluded (Wallace et al. 2023, Tab. 2): pairs that people tied do not count, and equal scores
count a half. PickScore's (Kirstain et al. 2023, and its repository's evaluation script): a scorer predicts a tie
where its two probabilities differ by at most a threshold; a prediction scores 1 where it is the label, a half where one
of the two is a tie, else 0; the threshold is the first best of 0, 0.1 .. 1 on a validation split.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from labelers.labels.label_rules import Floats, hard_labels

THRESHOLDS = tuple(k / 10 for k in range(11))


def untied_points(margin: Floats, human: Floats) -> npt.NDArray[np.float64]:
    """Score pairs 1, 0, or a half for equal scores; NaN where people tied, since such pairs do not count.

    Args:
        margin: [n] score_0 - score_1.
        human: [n] label_0.
    """
    points = 1.0 - np.abs(hard_labels(margin).astype(np.float64) - human)
    return np.where(human == 0.5, np.nan, points)


def tie_points(margin: Floats, human: Floats, temperature: float, threshold: float) -> npt.NDArray[np.float64]:
    """Score pairs by PickScore's convention.

    Args:
        margin: [n] score_0 - score_1.
        human: [n] label_0.
        temperature: margin / temperature is the logit; the softmax of two logits differs by tanh(logit / 2).
        threshold: of the probabilities' difference, 0..1; at it and below, a tie is predicted.

    Returns:
        [n] float64: 1, 0.5 or 0.
    """
    gap = np.tanh(np.asarray(margin, np.float64) / temperature / 2)
    predicted = np.where(np.abs(gap) <= threshold, 0.5, gap > 0)
    return 1.0 - np.abs(predicted - human)


def tune_threshold(margin: Floats, human: Floats, temperature: float) -> float:
    """Choose the first of THRESHOLDS with the most points on validation pairs."""
    means = [tie_points(margin, human, temperature, threshold).mean() for threshold in THRESHOLDS]
    return THRESHOLDS[int(np.argmax(means))]
