"""The report's curves, as inline SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt

matplotlib.use("svg")
import matplotlib.pyplot as plt

Rows = Sequence[dict[str, Any]]
COLOURS = {"policy": "#0b6e6e", "control": "#b4691f", "base": "#8a8f98"}


def smooth(values: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """Average each value with the window - 1 before it; fewer at the start."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return (sums[ends] - sums[starts]) / (ends - starts)


def training_charts(steps: Rows, assessments: Rows, control: Rows) -> list[dict[str, str]]:
    """Draw the curves that a run has data for; each with a title and a sentence that says how to read it."""
    drawn = []
    if any("validation_median" in row for row in assessments):
        drawn.append(
            {
                "title": "Validation score",
                "note": "Median score of images from captions kept out of training; the best checkpoint is the result.",
                "svg": _lines(
                    {
                        "policy": _series(assessments, "validation_median"),
                        "control": _series(control, "validation_median"),
                    }
                ),
            }
        )
    held_out = _series(assessments, "held_out_accuracy")
    train = _series(steps, "accuracy")
    window = max(1, len(train[0]) // 12)
    drawn.append(
        {
            "title": "Implicit accuracy",
            "note": "Share of pairs whose winner has the higher implicit reward: each step's batch "
            f"(grey, mean of {window} steps), held-out pairs at fixed draws (green).",
            "svg": _lines({"base": (train[0], smooth(train[1], window)), "policy": held_out}, level=0.5),
        }
    )
    loss = _series(steps, "loss")
    drawn.append(
        {
            "title": "Loss",
            "note": f"Mean of {window} steps. It stays near its start while images improve; read the curves above.",
            "svg": _lines({"policy": (loss[0], smooth(loss[1], window))}),
        }
    )
    return drawn


def _series(rows: Rows, name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    kept = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    values = np.array(kept, np.float64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def _lines(
    series: dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]], level: float | None = None
) -> str:
    with plt.rc_context(
        {"font.family": "sans-serif", "font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "report"}
    ):
        figure, axes = plt.subplots(figsize=(4.6, 2.5), layout="constrained")
        for name, (x, y) in series.items():
            if len(x):
                axes.plot(
                    x,
                    y,
                    color=COLOURS[name],
                    linewidth=1.8,
                    marker="o" if len(x) < 30 else "",
                    markersize=3.5,
                    label=name,
                )
        if level is not None:
            axes.axhline(level, color="#c9ccd1", linewidth=1, linestyle="--")
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
        plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
