"""Work on machines that fail: how long a stage takes, what it loses, by formula and by a seeded simulation of events.

A node fails, or is taken back, after a time that is exponentially distributed, and another stands in its place a fixed
time later. Two kinds of work: independent copies that lose the block they are in, and training, where all workers step
together and go back to the last complete checkpoint. All times are seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

HOPELESS = 50.0  # times the time without failures: beyond it a simulation would hardly end


@dataclass(frozen=True)
class Fleet:
    """The nodes of a stage."""

    nodes: int
    mtbf: float = math.inf  # of one node: mean time until it fails or is taken back
    replacement: float = 0.0  # from then until another stands in its place


@dataclass(frozen=True)
class Copies:
    """A stage of independent copies, as the batch stages run on Ray Data."""

    units: float
    rate: float  # units a second of one node
    block: float  # units that a node has under way and may lose
    startup: float  # from a node's start to its first unit


@dataclass(frozen=True)
class Training:
    """A run whose workers step together."""

    steps: int
    every: int  # steps between checkpoints
    step: Callable[[int], float]  # time of a step by the number of nodes
    copy: float  # that a checkpoint holds the step up
    write: float  # until it is complete, beside the steps
    judge: float  # of an assessment: before the first step, and after each checkpoint
    restart: float  # from a change of the group to its next step
    least: int  # nodes that it goes on with

    def cycle(self, nodes: int) -> float:
        """Return the time from one checkpoint to the next; a write that takes longer holds the next one up."""
        return max(self.judge + self.every * self.step(nodes), self.write) + self.copy

    def rest(self, left: int, nodes: int) -> float:
        """Return the time of the last steps, with their checkpoints, the last write and the last assessment."""
        whole, tail = divmod(left, self.every)
        end = self.judge + tail * self.step(nodes) + self.copy if tail else 0.0
        return whole * self.cycle(nodes) + end + max(self.judge, self.write)


@dataclass
class Outcome:
    """What a stage came to."""

    seconds: float = 0.0
    node_seconds: float = 0.0  # of nodes that were there, working or not
    failures: float = 0.0
    lost: float = 0.0  # seconds of work done again, of one node for copies, of the group for training
    waited: float = 0.0  # seconds, the same, from a loss to work again
    spread: list[float] = field(default_factory=list, repr=False)  # the seconds of each repetition, ascending


def simulate_copies(stage: Copies, fleet: Fleet, random: Random) -> Outcome:
    """Follow a stage of independent copies from event to event."""
    told = Outcome(waited=stage.startup * fleet.nodes)
    alive, returns, left, clock = fleet.nodes, deque[float](), stage.units, stage.startup
    while True:
        failure = _next_failure(clock, alive, fleet, random)
        finish = clock + left / (alive * stage.rate) if alive else math.inf
        event = min(failure, finish, returns[0] if returns else math.inf)
        left -= (event - clock) * alive * stage.rate
        told.node_seconds += (event - clock) * alive
        clock = event
        if event == finish:
            break
        if event == failure:
            lost = random.random() * stage.block
            left, told.lost = min(left + lost, stage.units), told.lost + lost / stage.rate
            told.failures += 1
            alive -= 1
            returns.append(clock + fleet.replacement + stage.startup)
            told.waited += fleet.replacement + stage.startup
        else:
            returns.popleft()
            alive += 1
    told.seconds, told.node_seconds = clock, told.node_seconds + stage.startup * (fleet.nodes + told.failures)
    return told


def expected_copies(stage: Copies, fleet: Fleet) -> float:
    """Return the expected seconds of it, to first order: a failure costs half a block and a node's absence."""
    absent = fleet.replacement + stage.startup
    share = fleet.mtbf / (fleet.mtbf + absent) if math.isfinite(fleet.mtbf) else 1.0
    redone = 1.0 - stage.block / stage.rate / 2 / fleet.mtbf
    if redone <= 1 / HOPELESS:
        return math.inf
    return stage.startup + stage.units / (fleet.nodes * stage.rate * share * redone)


def simulate_training(run: Training, fleet: Fleet, random: Random) -> Outcome:
    """Follow a run from event to event: a failure, or a node's return, restarts the group from the last checkpoint."""
    told, alive, returns = Outcome(), fleet.nodes, deque[float]()
    left, clock = run.steps, 0.0
    while True:
        works = alive >= run.least
        begin = clock + run.restart if works else math.inf
        finish = begin + run.rest(left, alive) if works else math.inf
        failure = _next_failure(clock, alive, fleet, random)
        event = min(failure, finish, returns[0] if returns else math.inf)
        told.node_seconds += (event - clock) * alive
        worked = max(0.0, event - begin)
        told.waited += event - clock - worked
        clock = event
        if event == finish:
            break
        if worked:
            kept = min(max(0, int((worked - run.write) // run.cycle(alive))), left // run.every)
            left -= kept * run.every
            told.lost += worked - kept * run.cycle(alive)
        if event == failure:
            told.failures += 1
            if fleet.replacement:
                alive -= 1
                returns.append(clock + fleet.replacement)
        else:
            returns.popleft()
            alive += 1
    told.seconds = clock
    return told


def expected_training(run: Training, fleet: Fleet) -> float:
    """Return the expected seconds of a run that waits for a lost node's successor (Daly 2006, Eq. 20).

    M e^(R/M) (e^(c/M) - 1) for each of the steps / every cycles of c seconds: R from a loss to the next step, M the
    group's mean time between failures. The write goes on beside the steps, so it is no part of c; a failure meanwhile
    loses a whole cycle more, which happens in write / c of the failures: on average each loses `write` more.
    """
    ends = run.restart + max(run.judge, run.write)
    cycles, cycle = run.steps / run.every, run.cycle(fleet.nodes)
    if math.isinf(fleet.mtbf):
        return ends + cycles * cycle
    group = fleet.mtbf / fleet.nodes
    away = run.restart + fleet.replacement + run.write
    if (away + cycle) / group > math.log(HOPELESS):
        return math.inf
    return ends + cycles * group * math.exp(away / group) * math.expm1(cycle / group)


def best_interval(copy: float, group_mtbf: float) -> float:
    """Return the interval between checkpoints that costs least, to first order: sqrt(2 C M) (Young 1974)."""
    return math.sqrt(2 * copy * group_mtbf)


def repeated(follow: Callable[[Random], Outcome], times: int, seed: int) -> Outcome:
    """Return the means over repetitions, each a function of (seed, its number)."""
    outcomes = [follow(Random(f"{seed}:{number}")) for number in range(times)]
    means = {
        name: sum(getattr(outcome, name) for outcome in outcomes) / times
        for name in ("seconds", "node_seconds", "failures", "lost", "waited")
    }
    return Outcome(**means, spread=sorted(outcome.seconds for outcome in outcomes))


def _next_failure(clock: float, alive: int, fleet: Fleet, random: Random) -> float:
    if not alive or math.isinf(fleet.mtbf):
        return math.inf
    return clock + random.expovariate(alive / fleet.mtbf)
