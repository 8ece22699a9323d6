"""Kills of real runs against the plan: what is counted of an attempt, and what the plan is asked; by hand."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from infra.benchmarks import plan_kills
from infra.benchmarks.plan_kills import BenchmarkConfig, Killed, compare, follow
from infra.planning import fleet
from infra.planning.fleet import Training
from training.settings.config import TrainConfig


class Gaps(Random):
    """Gives told gaps, whatever their mean."""

    def __init__(self, *gaps: float) -> None:
        super().__init__(0)
        self.gaps = list(gaps)

    def expovariate(self, lambd: float = 1.0) -> float:  # noqa: ARG002
        """Return the next gap."""
        return self.gaps.pop(0)


def test_work_since_the_last_complete_checkpoint_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, kept = list[float](), iter([5, 5, 10])

    def begin(_: TrainConfig, last: float) -> tuple[bool, int, float]:
        asked.append(last)
        return len(asked) == 4, int(min(last, 7)), 0.0

    monkeypatch.setattr(plan_kills, "begin", begin)
    monkeypatch.setattr(plan_kills.checkpoint, "complete_steps", lambda _: [next(kept)])
    monkeypatch.setattr(plan_kills, "read_notes", lambda *_: [{"loss": 0.5}])
    found = follow(TrainConfig(), 7.0, Gaps(7.25, 3.5, 5.25, 99.0))
    assert asked == [7, 3, 5, 99]  # whole steps of each attempt; the kill comes in the next
    # From step 0: 7.25 steps, of which 5 were kept. From 5: nothing new. From 5: step 10 was kept, a quarter lost.
    assert found == Killed([7.25, 3.5, 5.25], [2.25, 3.5, 0.25], 7 + 3 + 5 + 7, [0.5])


def test_the_plan_is_asked_for_the_same_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_kills, "REPETITIONS", 50)
    config = BenchmarkConfig(steps=20, every=5, mean_gap=8.0, runs=2, seed=3)
    run = Training(steps=20, every=5, step=lambda _: 1.0, copy=0.0, write=0.0, judge=0.0, restart=0.0, least=1)
    killed = []
    for number in range(config.runs):  # by hand: what is whole fives of a gap is kept
        random, left, one = Random(f"3:{number}"), 20, Killed([], [], 0, [])
        while (gap := random.expovariate(1 / 8.0)) < left:
            left -= 5 * int(gap // 5)
            one.gaps.append(gap)
            one.lost.append(gap % 5)
        killed.append(one)
    told: dict[str, Any] = compare(config, run, killed)
    assert sum(len(one.gaps) for one in killed) > 2
    assert told["same gaps"] == {name: pytest.approx(value) for name, value in told["measured"].items()}
    assert told["mean"]["lost"] != pytest.approx(told["measured"]["lost"])
    assert told["daly"] == fleet.expected_training(run, fleet.Fleet(1, mtbf=8.0))
