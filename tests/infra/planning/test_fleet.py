"""Work on machines that fail: by hand, against Young's and Daly's formulas, and the same again from the same seed."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest

from infra.planning import fleet
from infra.planning.fleet import Copies, Fleet, Training

# 10,000 steps of 10 s; every 100 steps a checkpoint stops them for 20 s.
RUN = Training(steps=10_000, every=100, step=lambda _: 10.0, copy=20.0, write=0.0, judge=0.0, restart=60.0, least=4)
CALM = Fleet(4)


class Failures(Random):
    """A source of failures at given times."""

    def __init__(self, *gaps: float) -> None:
        super().__init__(0)
        self.gaps = list(gaps)

    def expovariate(self, lambd: float = 1.0) -> float:  # noqa: ARG002
        """Return the next gap."""
        return self.gaps.pop(0) if self.gaps else math.inf

    def random(self) -> float:
        """Return a half."""
        return 0.5


def test_without_failures_a_run_is_its_steps_and_its_checkpoints() -> None:
    outcome = fleet.simulate_training(RUN, CALM, Random(0))
    assert outcome.seconds == pytest.approx(60 + 10_000 * 10 + 100 * 20)
    assert outcome.seconds == pytest.approx(fleet.expected_training(RUN, CALM))
    assert (outcome.failures, outcome.lost, outcome.waited) == (0, 0, 60)
    assert outcome.node_seconds == pytest.approx(4 * outcome.seconds)


def test_a_tail_shorter_than_an_interval_is_kept_and_judged_too() -> None:
    run = replace(RUN, steps=250, judge=5.0, write=7.0)
    assert run.rest(250, 4) == 2 * (5 + 1000 + 20) + (5 + 500 + 20) + 7


def test_a_write_longer_than_the_interval_holds_the_next_one_up() -> None:
    assert replace(RUN, write=3000.0).cycle(4) == 3020


def test_a_failure_goes_back_to_the_last_complete_checkpoint() -> None:
    """Cycles of 1,020 s begin at 60; a failure 2,200 s later is 1,140 s after the second snapshot, 160 into the third.

    2,200 - 60 = 2,140 = 2 x 1,020 + 100: 100 s are lost. Was the second one not yet written (150 s), 1,120 s are.
    """
    nodes = Fleet(4, mtbf=1.0)
    plain = 60 + 100 * 1020
    outcome = fleet.simulate_training(RUN, nodes, Failures(2200.0))
    assert (outcome.failures, outcome.lost, outcome.waited) == (1, 100, 120)
    assert outcome.seconds == pytest.approx(plain + 100 + 60)
    slow = fleet.simulate_training(replace(RUN, write=150.0), nodes, Failures(2200.0))
    assert (slow.lost, slow.seconds) == (1120, pytest.approx(plain + 150 + 1120 + 60))


def test_elastic_workers_go_on_with_fewer_and_restart_twice() -> None:
    """Three nodes step in 40/3 s. Lost at 60 + 500, back 1,000 s later, in the three's first cycle."""
    run = replace(RUN, steps=100, step=lambda nodes: 40.0 / nodes, least=1)
    outcome = fleet.simulate_training(run, Fleet(4, mtbf=1.0, replacement=1000.0), Failures(560.0))
    assert outcome.lost == pytest.approx(500 + 940)  # the restart took 60 of the 1,000
    assert outcome.waited == 180
    assert outcome.seconds == pytest.approx(560 + 1000 + 60 + 1020)
    assert outcome.node_seconds == pytest.approx(4 * 560 + 3 * 1000 + 4 * 1080)


def test_a_run_that_needs_all_waits_for_the_successor() -> None:
    outcome = fleet.simulate_training(replace(RUN, steps=100), Fleet(4, mtbf=1.0, replacement=1000.0), Failures(560.0))
    assert (outcome.lost, outcome.waited) == (500, 60 + 1000 + 60)
    assert outcome.seconds == pytest.approx(560 + 1000 + 60 + 1020)


@pytest.mark.parametrize("hours", [2, 10, 100])
def test_simulation_and_daly_s_formula_agree(hours: float) -> None:
    failing = Fleet(4, mtbf=4 * hours * 3600)
    outcome = fleet.repeated(lambda random: fleet.simulate_training(RUN, failing, random), 300, seed=1)
    assert outcome.seconds == pytest.approx(fleet.expected_training(RUN, failing), rel=0.01)


def test_a_failure_loses_half_an_interval_and_a_restart() -> None:
    failing = Fleet(4, mtbf=4 * 50 * 3600)
    outcome = fleet.repeated(lambda random: fleet.simulate_training(RUN, failing, random), 1000, seed=2)
    assert outcome.lost / outcome.failures == pytest.approx(1020 / 2, rel=0.05)
    assert (outcome.waited - 60) / outcome.failures == pytest.approx(60)
    late = replace(RUN, write=300.0)
    outcome = fleet.repeated(lambda random: fleet.simulate_training(late, failing, random), 1000, seed=2)
    assert outcome.lost / outcome.failures == pytest.approx(1020 / 2 + 300, rel=0.05)


def test_the_cheapest_interval_is_young_s() -> None:
    """C = 20 s and M = 10 h: sqrt(2 x 20 x 36,000) = 1,200 s, 120 steps."""
    failing = Fleet(4, mtbf=4 * 36_000)
    young = fleet.best_interval(20, 36_000)
    assert young == 1200
    costs = {every: fleet.expected_training(replace(RUN, every=every), failing) for every in range(10, 1000)}
    assert min(costs, key=costs.__getitem__) * 10 == pytest.approx(young, rel=0.03)
    simulated = {}
    for every in (30, 120, 480):
        run = replace(RUN, every=every)
        follow = lambda random, run=run: fleet.simulate_training(run, failing, random)  # noqa: E731
        simulated[every] = fleet.repeated(follow, 300, seed=3).seconds
    assert min(simulated, key=simulated.__getitem__) == 120


def test_a_copy_loses_its_block() -> None:
    """Four nodes of 2 units/s, 800 units: 100 s and 10 of start. Lost at 60: 20 units again, three nodes for 40 s."""
    stage = Copies(units=800, rate=2.0, block=40.0, startup=10.0)
    calm = fleet.simulate_copies(stage, CALM, Random(0))
    assert (calm.seconds, calm.node_seconds) == (110, 440)
    outcome = fleet.simulate_copies(stage, Fleet(4, mtbf=1.0, replacement=30.0), Failures(50.0))
    assert (outcome.failures, outcome.lost) == (1, 10)
    # 400 units until 60 s, 20 of them lost; 240 by three until 100 s; the last 180 by four
    assert outcome.seconds == pytest.approx(100 + 180 / 8)


def test_copies_by_simulation_and_by_formula_agree() -> None:
    stage = Copies(units=1e6, rate=2.0, block=2000.0, startup=100.0)
    failing = Fleet(16, mtbf=10 * 3600, replacement=900.0)
    outcome = fleet.repeated(lambda random: fleet.simulate_copies(stage, failing, random), 200, seed=4)
    assert outcome.seconds == pytest.approx(fleet.expected_copies(stage, failing), rel=0.01)
    assert outcome.lost / outcome.failures == pytest.approx(500, rel=0.05)


def test_the_same_seed_is_the_same_future() -> None:
    failing = Fleet(4, mtbf=36_000)
    first, again, other = (
        fleet.repeated(lambda random: fleet.simulate_training(RUN, failing, random), 3, seed) for seed in (7, 7, 8)
    )
    assert first == again
    assert first.spread != other.spread


def test_a_fleet_that_fails_faster_than_it_saves_never_ends() -> None:
    assert math.isinf(fleet.expected_training(RUN, Fleet(4, mtbf=4 * 200)))
    assert math.isinf(fleet.expected_copies(Copies(10, 1.0, 1000.0, 1.0), Fleet(4, mtbf=500)))
