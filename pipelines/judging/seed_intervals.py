"""Intervals of figures measured on the same prompts by several training runs: seeds and prompts are both samples.

The figure of seed s on prompt i is taken as mu + a_s + b_i + e_si. With S seeds, n prompts and the mean squares of this
two-way layout, the mean's variance is estimated by

    V = (max(MS_seeds, MS_rest) + max(MS_prompts - MS_rest, 0)) / (S n)    for  var(a)/S + var(b)/n + var(e)/(S n)

and the interval is mean +- t sqrt(V), with Satterthwaite's degrees of freedom (Satterthwaite 1946) of the two terms, of
which the seeds' has S - 1: few seeds that differ make it wide. It is the analysis of several readers of the same cases
in radiology (Hillis 2007, "A comparison of denominator degrees of freedom methods for multiple observer ROC analysis"),
but that MS_seeds, of two degrees of freedom only, counts no less than MS_rest, which it cannot be expected to be below:
without this, three seeds that happen to agree would narrow the interval (test_seed_intervals.py counts both).
Where only seeds differ it is the t interval of the seeds' means, where seeds agree that of the prompts' means.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import t

from pipelines.judging.win_rate import wilson

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and prompts with its interval."""

    value: float
    low: float
    high: float
    n: int  # prompts
    seeds: int
    per_seed: list[float]  # the mean over prompts of each seed


def crossed_mean(values: Floats, confidence: float = 0.95) -> Estimate:
    """Compute the mean of values [seeds, prompts] and its interval over both.

    Raises:
        ValueError: if there are fewer than two seeds or prompts, or a value is not finite.
    """
    seeds, prompts = values.shape
    if min(seeds, prompts) < 2:
        raise ValueError("it takes at least two seeds and two prompts")
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    mean, of_seeds, of_prompts = values.mean(), values.mean(1), values.mean(0)
    rest = values - of_seeds[:, None] - of_prompts[None] + mean
    ms_seeds = prompts * of_seeds.var(ddof=1)
    ms_prompts = seeds * of_prompts.var(ddof=1)
    ms_rest = (rest**2).sum() / ((seeds - 1) * (prompts - 1))
    ms_seeds, extra = max(ms_seeds, ms_rest), max(ms_prompts - ms_rest, 0.0)
    half = 0.0
    if ms_seeds + extra > 0:
        freedom = (ms_seeds + extra) ** 2 / (ms_seeds**2 / (seeds - 1) + extra**2 / (prompts - 1))
        half = float(t.ppf(0.5 + confidence / 2, freedom) * np.sqrt((ms_seeds + extra) / values.size))
    value = float(mean)
    return Estimate(value, value - half, value + half, prompts, seeds, [float(one) for one in of_seeds])


def crossed_rate(points: Floats, confidence: float = 0.95) -> Estimate:
    """Compute a rate of points [seeds, prompts], 0 to 1 each, its interval cut to 0 and 1.

    Where all points are equal the spread says nothing of how far the rate may be off: there it is Wilson's interval of
    as many trials as prompts.
    """
    return _as_rate(crossed_mean(points, confidence), confidence)


def clustered_mean(values: Floats, prompts: npt.NDArray[np.int64], confidence: float = 0.95) -> Estimate:
    """Compute the mean of values [seeds, pairs] where several pairs may share a prompt; prompts are what is sampled.

    The mean is a ratio, values over pairs, so its spread is that of each prompt's values less what the mean expects
    of its number of pairs (the linearised ratio estimator: Cochran 1977, Sampling Techniques, 6.3).

    Args:
        prompts: [pairs], which prompt each pair belongs to.
    """
    numbers = np.unique(prompts, return_inverse=True)[1]
    sizes = np.bincount(numbers).astype(np.float64)
    sums = np.stack([np.bincount(numbers, weights=own) for own in values])
    mean = sums.sum() / (len(values) * sizes.sum())
    found = crossed_mean((sums - mean * sizes) / sizes.mean() + mean, confidence)
    return replace(found, per_seed=[float(own.mean()) for own in values])


def clustered_rate(points: Floats, prompts: npt.NDArray[np.int64], confidence: float = 0.95) -> Estimate:
    """Compute a rate of points [seeds, pairs], 0 to 1 each, where several pairs may share a prompt."""
    return _as_rate(clustered_mean(points, prompts, confidence), confidence)


def _as_rate(found: Estimate, confidence: float) -> Estimate:
    if found.low == found.high:
        low, high = wilson(found.value * found.n, found.n, confidence)
    else:
        low, high = max(0.0, found.low), min(1.0, found.high)
    return replace(found, low=low, high=high)
