"""The benchmark of the whole path: from which number of epochs ours is faster, by hand."""

from __future__ import annotations

import pytest

from infra.benchmarks.whole import break_even


@pytest.mark.parametrize(
    ("ours", "theirs", "epochs"),
    [
        ({1: 12.0, 3: 16.0}, {1: 9.0, 3: 19.0}, 2.0),  # 10 + 2 e and 4 + 5 e meet at e = 6/3 = 2
        ({1: 5.0, 3: 9.0}, {1: 6.0, 3: 14.0}, 0.5),  # 3 + 2 e and 2 + 4 e meet at e = 1/2
        ({1: 4.0, 3: 8.0}, {1: 7.0, 3: 11.0}, 0.0),  # 2 + 2 e and 5 + 2 e: faster from the start
        ({1: 9.0, 3: 19.0}, {1: 6.0, 3: 16.0}, None),  # 4 + 5 e and 1 + 5 e: never
    ],
)
def test_the_break_even_by_hand(ours: dict[int, float], theirs: dict[int, float], epochs: float | None) -> None:
    found = break_even({"ours": ours, "theirs": theirs})
    assert found == (None if epochs is None else pytest.approx(epochs))
