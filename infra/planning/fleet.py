"""Compute how long a stage takes on machines that fail and what it loses, by formula and by seeded simulation.

The time until a node fails, or is taken back, is exponentially distributed. Another node replaces it a fixed time
later. There are two kinds of work. Independent copies lose the block that they are in. In training all workers step
together, and a failure takes them back to the last complete checkpoint. All times are seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

HOPELESS = 50.0  # the longest stage that is simulated, as a multiple of its time without failures


@dataclass(frozen=True)
class Fleet:
    """The nodes of a stage."""

    nodes: int
    mtbf: float = math.inf  # mean time until one node fails or is taken back
    replacement: float = 0.0  # from a failure until another node takes the place


@dataclass(frozen=True)
class Copies:
    """A stage of independent copies, as the batch stages run on Ray Data."""

    units: float
    rate: float  # units a second of one node
    block: float  # units that a node works on at once, and loses if it fails
    startup: float  # from a node's start to its first unit


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run whose workers step together."""

    steps: int
    every: int  # steps between checkpoints
    step: Callable[[int], float]  # time of a step by the number of nodes
    copy: float  # for which a checkpoint stops the steps
    write: float  # until a checkpoint is complete; the steps go on meanwhile
    judge: float  # of one validation: before the first step, and after each checkpoint
    restart: float  # from a change of the set of nodes to the next step
    least: int  # the fewest nodes that it can run on

    def cycle(self, nodes: int) -> float:
        """Return the time from one checkpoint to the next; a longer write delays the next checkpoint."""
        return max(self.judge + self.every * self.step(nodes), self.write) + self.copy

    def rest(self, left: int, nodes: int) -> float:
        """Return the time of the steps left, with their checkpoints, the last write and the last validation."""
        whole, tail = divmod(left, self.every)
        end = self.judge + tail * self.step(nodes) + self.copy if tail else 0.0
        return whole * self.cycle(nodes) + end + max(self.judge, self.write)


@dataclass(kw_only=True)
class Outcome:
    """The times and the losses of a stage."""

    seconds: float = 0.0
    node_seconds: float = 0.0  # of all nodes that were up, whether or not they worked
    failures: float = 0.0
    lost: float = 0.0  # seconds of work done again: of one node for copies, of all nodes for training
    waited: float = 0.0  # seconds without work after a failure, counted as for lost
    spread: list[float] = field(default_factory=list, repr=False)  # the seconds of each repetition, ascending


def simulate_copies(stage: Copies, fleet: Fleet, random: Random) -> Outcome:
    """Follow a stage of independent copies from event to event."""
    outcome = Outcome(waited=stage.startup * fleet.nodes)
    alive = fleet.nodes
    returns = deque[float]()
    left = stage.units
    clock = stage.startup
    while True:
        failure = _next_failure(clock, alive, fleet, random)
        finish = clock + left / (alive * stage.rate) if alive else math.inf
        event = min(failure, finish, returns[0] if returns else math.inf)
        left -= (event - clock) * alive * stage.rate
        outcome.node_seconds += (event - clock) * alive
        clock = event
        if event == finish:
            break
        if event == failure:
            lost = random.random() * stage.block
            left = min(left + lost, stage.units)
            outcome.lost += lost / stage.rate
            outcome.failures += 1
            alive -= 1
            returns.append(clock + fleet.replacement + stage.startup)
            outcome.waited += fleet.replacement + stage.startup
        else:
            returns.popleft()
            alive += 1
    outcome.seconds = clock
    outcome.node_seconds += stage.startup * (fleet.nodes + outcome.failures)
    return outcome


def expected_copies(stage: Copies, fleet: Fleet) -> float:
    """Return a stage's expected seconds, to first order: a failure costs half a block and the node's absence."""
    absent = fleet.replacement + stage.startup
    share = fleet.mtbf / (fleet.mtbf + absent) if math.isfinite(fleet.mtbf) else 1.0
    redone = 1.0 - stage.block / stage.rate / 2 / fleet.mtbf
    if redone <= 1 / HOPELESS:
        return math.inf
    return stage.startup + stage.units / (fleet.nodes * stage.rate * share * redone)


def simulate_training(run: Training, fleet: Fleet, random: Random) -> Outcome:
    """Follow a run from event to event; a failure or a returning node restarts it from the last checkpoint."""
    outcome = Outcome()
    alive = fleet.nodes
    returns = deque[float]()
    left = run.steps
    clock = 0.0
    while True:
        works = alive >= run.least
        begin = clock + run.restart if works else math.inf
        finish = begin + run.rest(left, alive) if works else math.inf
        failure = _next_failure(clock, alive, fleet, random)
        event = min(failure, finish, returns[0] if returns else math.inf)
        outcome.node_seconds += (event - clock) * alive
        worked = max(0.0, event - begin)
        outcome.waited += event - clock - worked
        clock = event
        if event == finish:
            break
        if worked:
            kept = min(max(0, int((worked - run.write) // run.cycle(alive))), left // run.every)
            left -= kept * run.every
            outcome.lost += worked - kept * run.cycle(alive)
        if event == failure:
            outcome.failures += 1
            if fleet.replacement:
                alive -= 1
                returns.append(clock + fleet.replacement)
        else:
            returns.popleft()
            alive += 1
    outcome.seconds = clock
    return outcome


def expected_training(run: Training, fleet: Fleet) -> float:
    """Return the expected seconds of a run that waits until a lost node is replaced (Daly 2006, Eq. 20).

    There are steps / every cycles of c seconds, and each takes M e^(R/M) (e^(c/M) - 1). R is the time from a failure to
    the next step, M the mean time between failures of all nodes together. The write runs beside the steps, so c leaves
    it out. A share write / c of the failures falls into a write and loses one cycle more: `write` seconds on average.
    """
    ends = run.restart + max(run.judge, run.write)
    cycles = run.steps / run.every
    cycle = run.cycle(fleet.nodes)
    if math.isinf(fleet.mtbf):
        return ends + cycles * cycle
    group = fleet.mtbf / fleet.nodes
    away = run.restart + fleet.replacement + run.write
    if (away + cycle) / group > math.log(HOPELESS):
        return math.inf
    return ends + cycles * group * math.exp(away / group) * math.expm1(cycle / group)


def best_interval(copy: float, group_mtbf: float) -> float:
    """Return the interval between checkpoints that costs least, to first order: sqrt(2 C M) (Young 1974).

    Args:
        copy: C, seconds for which a checkpoint stops the steps.
        group_mtbf: M, mean seconds between failures of all nodes together.
    """
    return math.sqrt(2 * copy * group_mtbf)


def repeated(follow: Callable[[Random], Outcome], times: int, seed: int) -> Outcome:
    """Simulate several times and return the means; each repetition is a function of (seed, its number)."""
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
