"""The check of the plan against real runs: a run's times by hand, on notes as TensorBoard keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from infra.base import files
from infra.base.errors import UserError
from infra.benchmarks.plan_check import compare, read_notes

SECONDS, JUDGE = 2.0, 7.0


def write_run(folder: Path, steps: int, every: int, slower_after: int = 10**9) -> Path:
    """Leave the notes of a run whose steps take 2 s, or 3 after one of them, and whose assessments take 7."""
    files.write_json(str(folder / "config.json"), {"steps": 10, "checkpoint_every": every})
    board, clock = SummaryWriter(str(folder / "tensorboard")), 1000.0
    board.add_scalar("validation_median", 0.0, 0, walltime=clock)
    for step in range(1, steps + 1):
        took = SECONDS if step <= slower_after else 1.5 * SECONDS
        clock += took
        board.add_scalar("seconds", took, step, walltime=clock)
        if step % every == 0 or step == steps:
            clock += JUDGE
            board.add_scalar("validation_median", 0.0, step, walltime=clock)
    board.close()
    return folder


def test_an_even_run_is_predicted_exactly(tmp_path: Path) -> None:
    """Ten steps, judged after 4, 8 and 10: nine steps and three assessments after the end of the first step."""
    told = compare(read_notes(str(write_run(tmp_path, 10, 4))), calibration=3)
    assert (told["step"], told["judge"]) == (SECONDS, JUDGE)
    assert told["measured"] == 9 * SECONDS + 3 * JUDGE
    assert told["predicted"] == pytest.approx(told["measured"])


def test_a_run_that_slows_down_shows_in_the_ratio(tmp_path: Path) -> None:
    told = compare(read_notes(str(write_run(tmp_path, 10, 4, slower_after=5))), calibration=3)
    assert told["measured"] == 4 * SECONDS + 5 * 1.5 * SECONDS + 3 * JUDGE
    assert told["ratio"] == pytest.approx((9 * SECONDS + 3 * JUDGE) / told["measured"])


def test_an_unfinished_run_and_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its notes hold 9 of 10 steps"):
        read_notes(str(write_run(tmp_path / "short", 9, 4)))
    with pytest.raises(UserError, match="it holds 0 TensorBoard files"):
        read_notes(str(tmp_path / "none"))
