"""The plan's simulation against runs that really took place: `python infra/benchmarks/plan_check.py --runs RUN...`.

A run folder's first steps and its first assessment after a checkpoint are the calibration; infra/planning/fleet.py
predicts the whole from them, and TensorBoard's file says when it took place. Measured is the time from the end of the
first step to the end of the last assessment, so startup is left out.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from infra.base import cli, files
from infra.base.errors import UserError
from infra.base.places import PathText
from infra.benchmarks.measure import median
from infra.planning import fleet
from infra.planning.fleet import Fleet, Training


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the check."""

    runs: tuple[str, ...] = ("runs/demo/dpo", "runs/demo/sft")
    """Run folders that nothing interrupted."""
    calibration: int = 10
    """First steps that the prediction is made from; the very first is left out."""
    json: PathText | None = None
    """File for the figures."""


@dataclass(frozen=True, kw_only=True)
class Notes:
    """What a run left of its times."""

    steps: int
    every: int
    ended: list[float]  # clock at the end of each step, seconds
    took: list[float]  # seconds of each step
    judged: dict[int, float]  # clock at the end of each assessment, by step

    @property
    def first_judgement(self) -> float:
        """Return the seconds of the assessment after the first checkpoint, and of the copy before it."""
        return self.ended[self.every] - self.ended[self.every - 1] - self.took[self.every]


def read_notes(run: str) -> Notes:
    """Read a run folder's settings and times.

    Raises:
        UserError: if the run is not finished, or something interrupted it.
    """
    folder = Path(files.resolve(run))
    events = sorted((folder / "tensorboard").glob("events.*"))
    if len(events) != 1 or not (folder / "config.json").is_file():
        raise UserError(
            f"--runs {run}: it holds {len(events)} TensorBoard files, or no config.json; "
            "give a run that nothing interrupted, which has one of each"
        )
    config = files.read_json(str(folder / "config.json"))
    board = EventAccumulator(str(events[0]), size_guidance={"scalars": 0})
    board.Reload()
    steps = board.Scalars("seconds")
    judged = board.Scalars("validation_median")
    if [event.step for event in steps] != list(range(1, config["steps"] + 1)):
        raise UserError(f"--runs {run}: its notes hold {len(steps)} of {config['steps']} steps; give a finished run")
    return Notes(
        steps=config["steps"],
        every=config["checkpoint_every"],
        ended=[event.wall_time for event in steps],
        took=[event.value for event in steps],
        judged={event.step: event.wall_time for event in judged},
    )


def compare(notes: Notes, calibration: int) -> dict[str, float]:
    """Predict a run from its first steps and first assessment, and compare with what it took.

    Returns:
        Seconds from the end of the first step to the end of the last assessment: predicted and measured; their ratio.
    """
    gaps = [later - earlier for earlier, later in pairwise(notes.ended[:calibration])]
    step = median(gaps)
    judge = notes.first_judgement
    # The copy stands within what is called the assessment here; a tiny model's write is done before its end.
    run = Training(
        steps=notes.steps,
        every=notes.every,
        step=lambda _: step,
        copy=0,
        write=0,
        judge=judge,
        restart=0,
        least=1,
    )
    outcome = fleet.simulate_training(run, Fleet(1), Random(0))
    predicted = outcome.seconds - judge - step  # the assessment before the first step, and that step
    measured = notes.judged[notes.steps] - notes.ended[0]
    return {"step": step, "judge": judge, "predicted": predicted, "measured": measured, "ratio": predicted / measured}


def main(config: BenchmarkConfig) -> None:
    """Compare the plan's prediction with runs that took place."""
    rows: dict[str, dict[str, Any]] = {}
    for run in config.runs:
        one = compare(read_notes(run), config.calibration)
        rows[run] = one
        print(f"{run}: a step {one['step']:.3f} s, an assessment {one['judge']:.2f} s; predicted", end=" ")
        print(f"{one['predicted']:.1f} s, measured {one['measured']:.1f} s, ratio {one['ratio']:.3f}", flush=True)
    if config.json:
        Path(files.resolve(config.json)).write_text(
            json.dumps({"runs": rows, "config": asdict(config)}, indent=2) + "\n"
        )


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
