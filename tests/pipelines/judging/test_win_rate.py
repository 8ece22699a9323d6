"""Win rates against known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from pipelines.judging.win_rate import (
    BOOTSTRAP,
    WILSON,
    WILSON_OF_PROMPTS,
    clustered_interval,
    diversity,
    paired_difference,
    rate_over_prompts,
    wilson,
    win_points,
    win_rate,
)


@pytest.mark.parametrize(("wins", "n"), [(0, 10), (5, 10), (10, 10), (130, 200), (1, 3)])
def test_wilson_is_scipys(wins: int, n: int) -> None:
    expected = binomtest(wins, n).proportion_ci(method="wilson")
    assert wilson(wins, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_covers_at_its_rate() -> None:
    rng, p, n = np.random.default_rng(0), 0.62, 200
    inside = [low <= p <= high for low, high in (wilson(int(w), n) for w in rng.binomial(n, p, size=4000))]
    assert 0.935 < np.mean(inside) < 0.965  # standard error 0.0034


def test_ties_count_a_half() -> None:
    # 2 wins, 1 loss, 1 tie of 4: 2.5 / 4.
    found = win_rate(np.array([2.0, 3.0, 1.0, 5.0]), np.array([1.0, 1.0, 2.0, 5.0]))
    assert found.value == 0.625
    assert found.n == 4
    assert found.low < 0.625 < found.high


def test_swapping_the_sides_mirrors_the_rate() -> None:
    a, b = np.array([1.0, 2.0, 2.0]), np.array([0.0, 2.0, 3.0])
    there, back = win_rate(a, b), win_rate(b, a)
    assert there.value == pytest.approx(1 - back.value)
    assert there.low == pytest.approx(1 - back.high)


def test_a_score_that_is_not_finite_is_no_loss_but_an_error() -> None:
    with pytest.raises(ValueError, match="finite"):
        win_rate(np.array([1.0, np.nan]), np.array([0.0, 0.0]))


def test_points_by_hand() -> None:
    assert win_points(np.array([2.0, 1.0, 5.0]), np.array([1.0, 2.0, 5.0])).tolist() == [1.0, 0.0, 0.5]


def test_paired_difference_by_hand() -> None:
    # Rates 3/4 and 1/4; Wilson at 3 of 4: 0.3006 to 0.9544, at 1 of 4: 0.0456 to 0.6994.
    # The points agree on 2 of 4 prompts (both win once, both lose once): correlation (1/4 - 3/16) / (3/16) = 1/3.
    found = paired_difference(np.array([1.0, 1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0, 0.0]))
    assert (found.value, found.n) == (0.5, 4)
    # Downwards both reach 0.4494: sqrt(2 * 0.4494^2 * (1 - 1/3)) = 0.5189; upwards 0.2044: 0.2360.
    assert (found.low, found.high) == pytest.approx((0.5 - 0.5189, 0.5 + 0.2360), abs=1e-4)


def test_a_policy_that_wins_every_prompt_is_correlated_with_none() -> None:
    # Rates 1 and 1/4; Wilson at 4 of 4: 0.5101 to 1. Downwards sqrt(0.4899^2 + 0.4494^2), upwards sqrt(0 + 0.2044^2).
    found = paired_difference(np.ones(4), np.array([1.0, 0.0, 0.0, 0.0]))
    assert (found.low, found.high) == pytest.approx((0.75 - 0.6648, 0.75 + 0.2044), abs=1e-4)
    back = paired_difference(np.array([1.0, 0.0, 0.0, 0.0]), np.ones(4))
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


def test_no_point_at_all_has_no_interval() -> None:
    assert np.isnan(clustered_interval(np.array([np.nan]), np.array([7]))).all()


def test_equal_policies_differ_by_nothing() -> None:
    half = np.array([1.0, 0.0] * 20)
    found = paired_difference(half, half)
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, 0), abs=1e-6)


def test_paired_difference_covers_at_its_rate() -> None:
    # Two policies that win on the same prompts half of the time: P(one) 0.6, P(other) 0.5, correlated.
    rng, n = np.random.default_rng(0), 200
    inside = []
    for _ in range(2000):
        shared, ease = rng.random(n) < 0.5, rng.random(n)
        one, other = ease < 0.6, np.where(shared, ease, rng.random(n)) < 0.5
        found = paired_difference(one.astype(float), other.astype(float))
        inside.append(found.low <= 0.1 <= found.high)
    assert 0.93 < np.mean(inside) < 0.97  # standard error 0.0049


def test_diversity_by_hand() -> None:
    # Prompt 0: points 0, 3: distance 3. Prompt 1: points 0, 0, 6: distances 0, 6, 6, mean 4. Prompt 2: one image.
    features = np.array([[0.0], [3.0], [0.0], [0.0], [6.0], [9.0]])
    assert diversity(features, np.array([0, 0, 1, 1, 1, 2])) == pytest.approx((3 + 4) / 2)


def test_intervals_are_clustered_by_prompt() -> None:
    points, prompts = np.repeat([1.0, 0.0], [140, 60]), np.arange(200)
    value, low, high = clustered_interval(points, prompts)
    half = 1.96 * (0.7 * 0.3 / 200) ** 0.5  # the normal approximation's
    assert value == 0.7
    assert (low, high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.01)
    # Repeating every pair of a prompt ten times is no new evidence.
    again = clustered_interval(np.repeat(points, 10), np.repeat(prompts, 10))
    assert again == pytest.approx((value, low, high))
    # Pairs without a point do not count.
    with_ties = clustered_interval(np.append(points, np.nan), np.append(prompts, 0))
    assert with_ties == pytest.approx((value, low, high))


def test_the_clustered_interval_is_scipys_bootstrap_of_prompts() -> None:
    rng = np.random.default_rng(3)
    prompts = np.repeat(np.arange(60), rng.integers(1, 5, 60))  # one to four images each
    points = (rng.random(len(prompts)) < rng.random(60)[prompts]).astype(float)
    sums, sizes = np.bincount(prompts, points), np.bincount(prompts)
    value, low, high = clustered_interval(points, prompts)
    assert value == points.mean()

    def ratio(sums: np.ndarray, sizes: np.ndarray, axis: int) -> np.ndarray:
        return sums.sum(axis) / sizes.sum(axis)

    found = bootstrap(
        (sums, sizes), ratio, paired=True, vectorized=True, method="percentile", n_resamples=20_000, rng=rng
    ).confidence_interval
    # The chance of a quantile among 2,000 resamples: sqrt(0.025 * 0.975 / 2000) / density = 0.0035 / 0.0585 deviations.
    assert (low, high) == pytest.approx((found.low, found.high), abs=0.012)


def test_a_clustered_interval_by_hand() -> None:
    # Prompt 0 wins both of its images, prompt 1 loses both. Two prompts drawn from these: 0 and 0 in a quarter of all
    # resamples (rate 1), 1 and 1 in another (rate 0), else one half: the 2.5 % and 97.5 % quantiles are 0 and 1.
    found, interval = rate_over_prompts(np.array([1.0, 1.0, 0.0, 0.0]), np.array([7, 7, 9, 9]))
    assert (found.value, found.low, found.high, found.n, interval) == (0.5, 0.0, 1.0, 4, BOOTSTRAP)


def test_one_image_per_prompt_has_wilsons_interval() -> None:
    found, interval = rate_over_prompts(np.array([1.0, 0.5, 0.0, 1.0]), np.array([4, 3, 2, 1]))
    assert (interval, found.value, (found.low, found.high)) == (WILSON, 0.625, wilson(2.5, 4))


def test_without_spread_the_number_of_prompts_still_counts() -> None:
    # Ten prompts, three images each, all won: resampling them gives nothing but 1. Wilson at 10 of 10.
    found, interval = rate_over_prompts(np.ones(30), np.repeat(np.arange(10), 3))
    assert (interval, found.value, found.n, (found.low, found.high)) == (WILSON_OF_PROMPTS, 1.0, 30, wilson(10, 10))


def test_simulated_raters_are_covered_at_the_stated_rate() -> None:
    """Prompts differ in how often the policy wins them (Beta, mean 0.6, deviation 0.28), one image in ten is a tie."""
    rng, prompts = np.random.default_rng(0), np.repeat(np.arange(100), 4)
    p, inside, naive = 0.6, [], []
    for _ in range(300):
        ease = rng.beta(1.2, 0.8, 100)[prompts]
        points = np.where(rng.random(400) < 0.1, 0.5, rng.random(400) < ease)
        truth = 0.1 * 0.5 + 0.9 * p
        found, _ = rate_over_prompts(points, prompts)
        inside.append(found.low <= truth <= found.high)
        low, high = wilson(points.sum(), 400)
        naive.append(low <= truth <= high)
    assert 0.91 < np.mean(inside) < 0.98  # standard error 0.013
    assert np.mean(naive) < np.mean(inside) - 0.05  # as if 400 images were 400 prompts
