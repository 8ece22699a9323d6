"""What a run's notes say of its health, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.run import watchdog
from training.settings.config import TrainConfig

WINDOW = 20  # steps that a figure is the mean of
QUARTERS = (1, 2, 3, 4)  # of the noise schedule, as the notes number them
FALLING_APART = 1.2  # times the reference's error, from which images are worth a look
MANY_VISITS = 10  # to a pair, from which a small set may be learnt by heart

Rows = Sequence[dict[str, Any]]


def describe(config: TrainConfig, steps: Rows, assessments: Rows, pairs: int) -> list[str]:
    """Say in sentences how a run is doing, from its last steps and checkpoints.

    Args:
        steps, assessments: the run's notes.
        pairs: how many are trained on.
    """
    recent = steps[-WINDOW:]
    if not recent:
        return ["No step is taken yet."]
    over = f"over the last {len(recent)} steps" if len(recent) > 1 else "in the one step so far"
    return [
        f"The mean loss is {np.mean([row['loss'] for row in recent]):.4f} {over}.",
        *_errors(recent),
        *_apart(recent),
        *_held_out(assessments),
        _clipping(recent, config.optimizer.max_gradient_norm),
        visits_sentence(config, steps[-1]["step"], pairs),
    ]


def _errors(recent: Rows) -> list[str]:
    """Compare the policy's error with the reference's; nothing where there is no reference."""
    ratios = []
    for row in recent:
        known = [
            (row[f"policy_error_q{quarter}"], row[f"reference_error_q{quarter}"])
            for quarter in QUARTERS
            if row.get(f"reference_error_q{quarter}") is not None
        ]
        ratios += [policy / reference for policy, reference in known]
    if not ratios:
        return []
    ratio = float(np.mean(ratios))
    verdict = "Look at the images: they may be falling apart" if ratio > FALLING_APART else "That is healthy"
    return [f"The policy’s error is {ratio:.2f} times the reference’s. {verdict}."]


def _apart(recent: Rows) -> list[str]:
    """Say how winners and losers stand against the reference."""
    said = watchdog.words(recent)
    return [f"{said[0].upper()}{said[1:]}."] if said else []


def _held_out(assessments: Rows) -> list[str]:
    """Say how held-out accuracy stands against chance and against its best."""
    known = [(row["step"], row["held_out_accuracy"]) for row in assessments if "held_out_accuracy" in row]
    if not known:
        return ["No pairs are held out, so nothing here shows whether the policy learns by heart."]
    step, last = known[-1]
    count = next((f" of {row['held_out_pairs']:,} pairs" for row in assessments if "held_out_pairs" in row), "")
    best_step, best = max(known, key=lambda pair: pair[1])
    sentence = f"Held-out accuracy is {last:.3f}{count} at step {step:,}; 0.5 is chance."
    if best > last:
        sentence += f" It was {best:.3f} at step {best_step:,}."
    return [sentence]


def _clipping(recent: Rows, limit: float) -> str:
    clipped = sum(row["gradient_norm"] > limit for row in recent)
    return f"The gradient was longer than {limit:g}, and so was shortened, in {clipped} of {len(recent)} steps."


def visits(config: TrainConfig, step: int, pairs: int) -> float:
    """Return how often each pair is seen in so many steps."""
    return step * config.data.global_batch / pairs


def visits_sentence(config: TrainConfig, step: int, pairs: int) -> str:
    """Say how often each pair was seen."""
    seen = visits(config, step, pairs)
    return (
        f"Each of the {pairs:,} pairs was seen {seen:.1f} times."
        if seen >= 1
        else (f"{seen:.0%} of the {pairs:,} pairs were seen, none of them twice.")
    )
