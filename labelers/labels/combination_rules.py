"""How several label sets become one: from their scores or votes of a pair to one score of each slot.

    vote      v_i = mean over sets of the set's own label for slot i: 1 won, 0 lost, 1/2 a tie
    mean-z    v_i = mean over sets of z_i, z = score / standard deviation of the set's scores
    weighted  v_i = sum over sets of w z_i / sum of w
    pareto    v_i = share of sets where slot i has the higher score, if no set has it lower; else both slots have 1/2

The higher v wins, and equal ones are a tie. A z here is no longer centred: the mean of a set's scores is the same for
both slots, so it cancels in their difference.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from labelers.labels.combine_config import Rule

Floats = npt.NDArray[np.float64]


def combine(rule: Rule, scores: Floats, labels: Floats, weights: Sequence[float]) -> Floats:
    """Combine label sets by a rule.

    Args:
        scores: [sets, 2, n], one row for each slot; vote does not read them.
        labels: [sets, n] label_0; only vote reads them.
        weights: one for each set, above 0; only weighted reads them.

    Returns:
        [2, n], one row for each slot; higher is better.
    """
    match rule:
        case "vote":
            return votes(labels)
        case "mean-z":
            return weighted_mean(scores, [1.0] * len(scores))
        case "weighted":
            return weighted_mean(scores, weights)
        case "pareto":
            return dominance(scores)
        case "rank":
            raise ValueError("rank_rule.py ranks, by groups")


def votes(labels: Floats) -> Floats:
    """Count the sets [sets, n] that prefer each slot, ties half, as shares: [2, n]."""
    first = labels.sum(0)  # exact: wholes and halves
    return np.stack([first, len(labels) - first]) / len(labels)


def weighted_mean(scores: Floats, weights: Sequence[float]) -> Floats:
    """Average scores [sets, 2, n] that are measured in the standard deviations of their own set: [2, n]."""
    shares = np.asarray(weights, np.float64) / sum(weights)
    return np.tensordot(shares / scores.std(axis=(1, 2)), scores, 1)


def dominance(scores: Floats) -> Floats:
    """Let a slot win that no set scores lower and some set scores higher: [2, n] from [sets, 2, n]."""
    higher = np.stack([scores[:, 0] > scores[:, 1], scores[:, 1] > scores[:, 0]]).mean(1)
    undecided = (higher[0] > 0) == (higher[1] > 0)
    return np.where(undecided, 0.5, higher)
