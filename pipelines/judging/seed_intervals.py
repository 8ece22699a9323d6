"""Intervals of figures that several training seeds give on the same prompts: seeds and prompts are both samples.

The model of the figure of seed s on prompt i is mu + a_s + b_i + e_si. With S seeds, n prompts and the mean squares of
this two-way layout, the estimate of the mean's variance is

    V = (max(MS_seeds, MS_rest) + max(MS_prompts - MS_rest, 0)) / (S n)    for  var(a)/S + var(b)/n + var(e)/(S n)

and the interval is mean +- t sqrt(V). Its degrees of freedom are Satterthwaite's of the two terms (Satterthwaite 1946).
The seeds' term has S - 1, so that a small number of seeds that differ makes the interval wide.

The analysis is that of several readers of the same cases in radiology (Hillis 2007, "A comparison of denominator
degrees of freedom methods for multiple observer ROC analysis"), with one change: MS_seeds counts at least as much as
MS_rest, the value that it would have on average if seeds did not differ. Without this, three seeds that agree by chance
would narrow the interval (test_seed_intervals.py counts both).
Where only seeds differ it is the t interval of the seeds' means; where seeds agree, that of the prompts' means.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import t

from pipelines.judging.win_rate import wilson

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
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
    mean = values.mean()
    of_seeds = values.mean(1)
    of_prompts = values.mean(0)
    rest = values - of_seeds[:, None] - of_prompts[None] + mean
    ms_seeds = prompts * of_seeds.var(ddof=1)
    ms_prompts = seeds * of_prompts.var(ddof=1)
    ms_rest = (rest**2).sum() / ((seeds - 1) * (prompts - 1))
    ms_seeds = max(ms_seeds, ms_rest)
    extra = max(ms_prompts - ms_rest, 0.0)
    half = 0.0
    if ms_seeds + extra > 0:
        freedom = (ms_seeds + extra) ** 2 / (ms_seeds**2 / (seeds - 1) + extra**2 / (prompts - 1))
        half = float(t.ppf(0.5 + confidence / 2, freedom) * np.sqrt((ms_seeds + extra) / values.size))
    value = float(mean)
    return Estimate(
        value=value,
        low=value - half,
        high=value + half,
        n=prompts,
        seeds=seeds,
        per_seed=[float(one) for one in of_seeds],
    )


def crossed_rate(points: Floats, confidence: float = 0.95) -> Estimate:
    """Compute a rate of points [seeds, prompts], 0 to 1 each, with its interval cut to 0 and 1.

    Where all points are equal they have no spread to compute an interval from. There it is Wilson's, of as many trials
    as there are prompts.
    """
    return _as_rate(crossed_mean(points, confidence), confidence)


def clustered_mean(values: Floats, prompts: npt.NDArray[np.int64], confidence: float = 0.95) -> Estimate:
    """Compute the mean of values [seeds, pairs] where several pairs may share a prompt; the prompts are the sample.

    The mean is a ratio: the sum of the values over the number of pairs. Its spread is therefore that of each prompt's
    sum less the mean times its pairs (the linearised ratio estimator: Cochran 1977, Sampling Techniques, 6.3).

    Args:
        prompts: [pairs], an id of each pair's prompt.
    """
    numbers = np.unique(prompts, return_inverse=True)[1]
    sizes = np.bincount(numbers).astype(np.float64)
    sums = np.stack([np.bincount(numbers, weights=own) for own in values])
    mean = sums.sum() / (len(values) * sizes.sum())
    estimate = crossed_mean((sums - mean * sizes) / sizes.mean() + mean, confidence)
    return replace(estimate, per_seed=[float(own.mean()) for own in values])


def clustered_rate(points: Floats, prompts: npt.NDArray[np.int64], confidence: float = 0.95) -> Estimate:
    """Compute a rate of points [seeds, pairs], 0 to 1 each, where several pairs may share a prompt."""
    return _as_rate(clustered_mean(points, prompts, confidence), confidence)


def _as_rate(estimate: Estimate, confidence: float) -> Estimate:
    if estimate.low == estimate.high:
        low, high = wilson(estimate.value * estimate.n, estimate.n, confidence)
        return replace(estimate, low=low, high=high)
    return replace(estimate, low=max(0.0, estimate.low), high=min(1.0, estimate.high))
