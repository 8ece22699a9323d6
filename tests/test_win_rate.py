"""Win rates against known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from pipelines.win_rate import diversity, paired_difference, wilson, win_points, win_rate


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
