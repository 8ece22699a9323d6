"""Win rates, their intervals, and diversity: the arithmetic of the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm


@dataclass(frozen=True)
class WinRate:
    """How often the policy's image scored higher than the base's for the same prompt and start noise."""

    value: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's score interval of a proportion; successes may be half-integral, where ties count a half.

    Wilson 1927; as for any binomial interval, a tie that counts a half makes it slightly too wide, never too narrow.
    """
    if n == 0:
        return 0.0, 1.0
    z, p = float(norm.ppf(0.5 + confidence / 2)), successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return float(centre - half), float(centre + half)


def win_rate(policy: npt.NDArray[np.floating], base: npt.NDArray[np.floating]) -> WinRate:
    """Compare scores [n] of one image per prompt, paired; a tie counts a half for each.

    Raises:
        ValueError: if a score is not finite; an unjudged image must not pass for a loss.
    """
    if not (np.isfinite(policy).all() and np.isfinite(base).all()):
        raise ValueError("scores must be finite")
    wins = float((policy > base).sum() + 0.5 * (policy == base).sum())
    low, high = wilson(wins, len(policy))
    return WinRate(wins / len(policy), low, high, len(policy))


def diversity(features: npt.NDArray[np.floating], prompts: npt.NDArray[np.int64]) -> float | None:
    """Compute the mean distance between images of the same prompt, averaged over prompts: small when modes collapse.

    Args:
        features: [n, d].
        prompts: [n], which prompt each image belongs to; prompts with one image do not count.

    Returns:
        The distance, or None where every prompt has one image.
    """
    means = []
    for prompt in np.unique(prompts):
        own = features[prompts == prompt]
        if len(own) > 1:
            distances = np.linalg.norm(own[:, None] - own[None], axis=-1)
            means.append(distances.sum() / (len(own) * (len(own) - 1)))
    return float(np.mean(means)) if means else None
