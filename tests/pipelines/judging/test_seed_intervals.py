"""Intervals over seeds and prompts: scipy's where only one of them varies, and coverage on simulated raters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import norm, t, ttest_1samp

from pipelines.judging.seed_intervals import clustered_mean, clustered_rate, crossed_mean, crossed_rate
from pipelines.judging.win_rate import wilson


def test_by_hand() -> None:
    # Means of seeds 1 and 3, of prompts 1 2 3; rest 0. MS_seeds = 3 * 2 = 6, MS_prompts = 2 * 1 = 2, both with rest 0:
    # V = (6 + 2) / 6, degrees of freedom 8^2 / (6^2 / 1 + 2^2 / 2).
    found = crossed_mean(np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]))
    half = t.ppf(0.975, 64 / 38) * np.sqrt(8 / 6)
    assert (found.value, found.n, found.seeds, found.per_seed) == (2.0, 3, 2, [1.0, 3.0])
    assert (found.low, found.high) == (pytest.approx(2 - half), pytest.approx(2 + half))


def test_where_only_seeds_differ_it_is_scipys_interval_of_their_means() -> None:
    means = np.array([0.55, 0.61, 0.58, 0.66])
    found = crossed_mean(np.repeat(means[:, None], 7, axis=1))
    expected = ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_where_seeds_agree_it_is_scipys_interval_of_the_prompts() -> None:
    prompts = np.random.default_rng(0).normal(size=40)
    found = crossed_mean(np.tile(prompts, (3, 1)), confidence=0.9)
    expected = ttest_1samp(prompts, 0.0).confidence_interval(0.9)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def raters(
    rng: np.random.Generator, chance: float, seed_spread: float, prompt_spread: float, prompts: int
) -> npt.NDArray[np.float64]:
    """Simulate points of three policies that win with a known probability: a probit model with both random effects."""
    total = np.sqrt(1 + seed_spread**2 + prompt_spread**2)
    effects = seed_spread * rng.standard_normal((3, 1)) + prompt_spread * rng.standard_normal((1, prompts))
    return (norm.ppf(chance) * total + effects + rng.standard_normal((3, prompts)) > 0) * 1.0


@pytest.mark.parametrize(
    ("chance", "seed_spread", "prompt_spread", "least"),
    [
        (0.6, 0.0, 0.0, 0.94),
        (0.6, 0.0, 0.7, 0.94),
        (0.6, 0.1, 0.7, 0.94),
        (0.6, 0.1, 2.0, 0.93),
        (0.6, 0.5, 0.7, 0.90),  # seeds 18 points apart: three of them tell the spread badly, and the rate is bounded
        (0.8, 0.1, 0.7, 0.93),
    ],
)
def test_the_interval_covers_the_known_win_rate(
    chance: float, seed_spread: float, prompt_spread: float, least: float
) -> None:
    rng, covered, narrow = np.random.default_rng(1), 0, 0
    for _ in range(600):
        points = raters(rng, chance, seed_spread, prompt_spread, 200)
        found = crossed_rate(points)
        covered += found.low <= chance <= found.high
        pooled = wilson(points.sum(), points.size)  # as if all were independent
        narrow += pooled[0] <= chance <= pooled[1]
    assert covered / 600 >= least
    if prompt_spread == 2.0:
        assert narrow / 600 < 0.85  # what pooling would have claimed


def test_seeds_that_happen_to_agree_do_not_narrow_it() -> None:
    # Three seeds with equal means and independent points: their mean square is 0, that of the rest is not.
    values = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
    rest = ((values - values.mean(0) - values.mean(1, keepdims=True) + 0.5) ** 2).sum() / 6
    found = crossed_mean(values)
    assert found.high - found.value >= 1.96 * np.sqrt(rest / 12)


def test_equal_points_have_wilsons_interval() -> None:
    found = crossed_rate(np.ones((3, 10)))
    assert (found.value, found.low, found.high) == (1.0, *wilson(10, 10))


def test_a_rate_ends_at_0_and_1_and_a_difference_does_not() -> None:
    values = np.array([[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 1.0]])
    assert crossed_rate(values).high == 1.0
    assert crossed_mean(-values).low < -1.0


def test_pairs_of_one_prompt_are_one_case() -> None:
    rng = np.random.default_rng(2)
    each = rng.integers(0, 2, (3, 50)).astype(np.float64)
    alone, twice = (
        clustered_rate(each, np.arange(50)),
        clustered_rate(np.repeat(each, 2, 1), np.repeat(np.arange(50), 2)),
    )
    assert alone == crossed_rate(each)
    assert (twice.low, twice.high) == (pytest.approx(alone.low), pytest.approx(alone.high))


def test_prompts_count_by_their_pairs() -> None:
    # Prompt 0 has three pairs, prompt 1 one: 3 of 4 points, not the mean of the prompts' rates.
    found = clustered_mean(np.array([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]]), np.array([0, 0, 0, 1]))
    assert (found.value, found.per_seed) == (0.75, [0.75, 0.75])


@pytest.mark.parametrize("values", [np.ones((1, 9)), np.ones((3, 1)), np.array([[1.0, np.nan], [0.0, 1.0]])])
def test_too_few_or_not_finite_are_refused(values: npt.NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=r"at least two|finite"):
        crossed_mean(values)
