"""The time left: the mean of this process's steps, its first left out."""

from __future__ import annotations

from training.run.progress import Progress


def test_the_time_left_is_that_of_the_steps_taken() -> None:
    times = iter([100.0, 110.0, 130.0])
    progress = Progress(2000, clock=lambda: next(times))
    assert progress.describe(1) == "step 1 of 2,000"  # nothing is known yet
    assert progress.describe(2) == "step 2 of 2,000, 5 h 33 min left"  # 10 s a step for 1,998 steps
    assert progress.describe(5) == "step 5 of 2,000, 4 h 09 min left"  # 30 s for 4 steps, 1,995 are left


def test_a_resumed_run_counts_its_own_steps_alone() -> None:
    times = iter([0.0, 60.0])
    progress = Progress(50, clock=lambda: next(times))
    progress.describe(46)
    assert progress.describe(48) == "step 48 of 50, 60 s left"


def test_the_last_step_leaves_nothing() -> None:
    progress = Progress(2, clock=lambda: 0.0)
    progress.describe(1)
    assert progress.describe(2) == "step 2 of 2"
