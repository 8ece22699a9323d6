"""The arithmetic of the report: win rates, their intervals, and diversity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

# Names of intervals.
WILSON = "Wilson"
WILSON_OF_PROMPTS = "Wilson over prompts"
BOOTSTRAP = "bootstrap over prompts"
RESAMPLES = 2000
DRAWN_AT_ONCE = 1 << 18  # resampled prompts that memory holds at once


@dataclass(frozen=True, kw_only=True)
class WinRate:
    """How often the policy's image scored higher than the base's for the same prompt and start noise."""

    value: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's score interval of a proportion (Wilson 1927).

    Successes may be half-integral, where ties count a half; each such tie makes a binomial interval slightly too wide,
    never too narrow.
    """
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return float(centre - half), float(centre + half)


def win_points(policy: npt.NDArray[np.floating], base: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Compare scores [n] of one image per prompt, paired: 1 where the policy's is higher, 0.5 at a tie, else 0.

    Raises:
        ValueError: if a score is not finite; an image without a score must not count as a loss.
    """
    if not (np.isfinite(policy).all() and np.isfinite(base).all()):
        raise ValueError("scores must be finite")
    return (policy > base) + 0.5 * (policy == base)


def win_rate(policy: npt.NDArray[np.floating], base: npt.NDArray[np.floating]) -> WinRate:
    """Compare scores [n] of one image per prompt, paired; a tie counts a half for each.

    Raises:
        ValueError: if a score is not finite.
    """
    return rate_of(win_points(policy, base))


def rate_of(points: npt.NDArray[np.float64]) -> WinRate:
    """Compute the mean of points [n], one per prompt, with Wilson's interval."""
    wins = float(points.sum())
    low, high = wilson(wins, len(points))
    return WinRate(value=wins / len(points), low=low, high=high, n=len(points))


def clustered_interval(
    points: npt.NDArray[np.floating], prompts: npt.NDArray[np.int64], confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Compute the mean of points and a percentile bootstrap interval that resamples prompts, not pairs.

    Pairs of one prompt share images and the raters' taste, so they are not independent.

    Args:
        points: [n]; NaN does not count.
        prompts: [n] prompt_id of each pair.

    Returns:
        Mean, lower and upper end.
    """
    counted = np.isfinite(points)
    numbers = np.unique(prompts[counted], return_inverse=True)[1]
    sums = np.bincount(numbers, weights=points[counted])
    sizes = np.bincount(numbers).astype(np.float64)
    if not len(sums):
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    at_once = max(1, DRAWN_AT_ONCE // len(sums))
    for start in range(0, RESAMPLES, at_once):
        chosen = rng.integers(len(sums), size=(min(at_once, RESAMPLES - start), len(sums)))
        means[start : start + at_once] = sums[chosen].sum(1) / sizes[chosen].sum(1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(sums.sum() / sizes.sum()), float(low), float(high)


def rate_over_prompts(points: npt.NDArray[np.float64], prompts: npt.NDArray[np.int64]) -> tuple[WinRate, str]:
    """Compute the mean of points [n], one per image or vote, with an interval over prompts, and name that interval.

    Where each prompt has one point the interval is Wilson's. Otherwise the points of one prompt are not independent,
    and a bootstrap resamples prompts, each with all its points. Where all prompts have the same mean a bootstrap
    interval would have no width. There it is Wilson's, of as many trials as there are prompts.

    Args:
        points: [n], 1, 0.5 or 0.
        prompts: [n], an id of each point's prompt.
    """
    numbers = np.unique(prompts, return_inverse=True)[1]
    sizes = np.bincount(numbers)
    if len(sizes) == len(points):
        return rate_of(points), WILSON
    means = np.bincount(numbers, weights=points) / sizes
    if np.ptp(means) == 0:
        return replace(rate_of(means), n=len(points)), WILSON_OF_PROMPTS
    value, low, high = clustered_interval(points, prompts)
    return WinRate(value=value, low=low, high=high, n=len(points)), BOOTSTRAP


@dataclass(frozen=True)
class Difference:
    """One policy's win rate less another's, over the same prompts."""

    value: float  # -1 to 1
    low: float
    high: float
    n: int


def paired_difference(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> Difference:
    """Subtract win rates over the same prompts; the 95 % interval comes from Wilson's two and the correlation.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired
    data". Prompts that are easy for both policies cancel, so it is narrower than two separate intervals.

    Args:
        one, other: points [n] by the same judge, in the same order of prompts.
    """
    a = rate_of(one)
    b = rate_of(other)
    varied = one.std() > 0 and other.std() > 0
    correlation = float(np.corrcoef(one, other)[0, 1]) if varied else 0.0

    def reach(up: float, down: float) -> float:
        return float(np.sqrt(max(0.0, up * up - 2 * correlation * up * down + down * down)))

    value = a.value - b.value
    low = value - reach(a.value - a.low, b.high - b.value)
    high = value + reach(a.high - a.value, b.value - b.low)
    return Difference(value, low, high, len(one))


def diversity(features: npt.NDArray[np.floating], prompts: npt.NDArray[np.int64]) -> float | None:
    """Compute the mean distance between images of the same prompt, averaged over prompts; mode collapse makes it small.

    Args:
        features: [n, d].
        prompts: [n], an id of each image's prompt; prompts with one image do not count.

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
