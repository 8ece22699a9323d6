"""What checks cost, counted by hand."""

from __future__ import annotations

import pytest

from infra.benchmarks.checks import BenchmarkConfig, Rates, count


def test_costs_by_hand() -> None:
    costs = count(BenchmarkConfig(), Rates(sha256=0.5e9, xxh3=5e9))
    assert costs.run == pytest.approx(26.3e18 / (16 * 989e12 * 0.4))  # 4,155 s
    assert costs.start == pytest.approx((24 * 851_293 + 20 * 58_961) / 5e9 + 7e6 / 0.5e9)
    assert costs.rows == pytest.approx(2000 * 128 * (65_536 + 118_272) / 5e9)  # 128 pairs of a step on each rank: 9.4 s
    assert costs.end == pytest.approx(15.8e9 / 0.5e9)  # 31.6 s
    assert costs.beside == pytest.approx(206)  # ten checkpoints of 10.3 GB
    assert costs.share == pytest.approx((0.0183 + 9.411 + 31.6) / 4155, rel=1e-3)


def test_half_the_steps_take_half_the_time() -> None:
    rates = Rates(sha256=1e9, xxh3=1e9)
    whole, half = (count(BenchmarkConfig(steps=steps), rates) for steps in (2000, 1000))
    assert (half.run, half.rows) == pytest.approx((whole.run / 2, whole.rows / 2))
    assert half.end == whole.end
