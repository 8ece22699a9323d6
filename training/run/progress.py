"""How far a run is: the step, and the time that the other steps will take."""

from __future__ import annotations

import time
from collections.abc import Callable

from infra.pages.made import duration


class Progress:
    """Estimates the time left from the steps that this process has taken, checkpoints and assessments included.

    The first step of a process is left out: it compiles, and fills caches.
    """

    def __init__(self, steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.steps = steps
        self.clock = clock
        self.begun: tuple[int, float] | None = None  # the first step seen, and when it ended, in seconds

    def describe(self, step: int) -> str:
        """Say how far the run is: "step 120 of 2,000, 1 h 05 min left". Call it after each step.

        Args:
            step: steps taken.
        """
        if self.begun is None:
            self.begun = (step, self.clock())
        first, then = self.begun
        place = f"step {step:,} of {self.steps:,}"
        if step == first or step >= self.steps:
            return place
        seconds = (self.clock() - then) / (step - first) * (self.steps - step)
        return f"{place}, {duration(seconds)} left"
