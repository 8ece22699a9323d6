"""The report's curves, as inline SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from infra.pages import curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[dict[str, Any]]
ALIGNED = "#0b6e6e"
CONTROL = "#b4691f"
BATCH = "#9aa0ab"
SIDES = {"winner": ALIGNED, "loser": CONTROL}
QUARTERS = {  # of the timesteps
    "t in quarter 1, least noise": "#a9cfcf",
    "quarter 2": "#7fb5b5",
    "quarter 3": "#3f8f8f",
    "quarter 4, most noise": "#0b4f4f",
}


@dataclass(frozen=True)
class Line(curves.Curve):
    """One curve of a run."""

    colour: str = ALIGNED

    def smoothed(self, window: int) -> Line:
        """Return the curve with each value averaged with the window - 1 before it; it starts where a window is full."""
        return Line(self.label, self.x[window - 1 :], smooth(self.y, window), self.colour)


def line(rows: Rows, name: str, label: str, colour: str = ALIGNED) -> Line:
    """Take a curve from a run's notes; steps that have no such value are left out."""
    kept = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    values = np.array(kept, np.float64).reshape(-1, 2)
    return Line(label, values[:, 0], values[:, 1], colour)


def smooth(values: npt.NDArray[np.float64], window: int) -> npt.NDArray[np.float64]:
    """Average each value with the window - 1 before it: [n] to [n - window + 1], empty where n < window."""
    return np.convolve(values, np.full(window, 1 / window), "valid") if len(values) >= window else values[:0]


def training_charts(
    steps: Rows, assessments: Rows, control: Rows, best_step: int | None, name: str = "aligned"
) -> list[dict[str, str]]:
    """Draw the curves that a run has data for; each with a title and a sentence on how to read it.

    Args:
        name: what the legend calls the run.
    """
    window = max(1, len(steps) // 12)
    mean = f"mean of {window} steps" if window > 1 else "each step"
    validation = [
        line(assessments, "validation_median", name),
        line(control, "validation_median", "control", CONTROL),
    ]
    count = next((f"{row['held_out_pairs']:,} " for row in assessments if "held_out_pairs" in row), "")
    accuracy = [
        line(steps, "accuracy", f"training batch, {mean}", BATCH).smoothed(window),
        line(assessments, "held_out_accuracy", f"{count}held-out pairs"),
    ]
    loss = [line(steps, "loss", f"loss, {mean}").smoothed(window)]
    drawn = [
        (
            "Validation score",
            "Median score of images of captions that training never saw."
            + ("" if best_step is None else " The dotted line marks the checkpoint kept as the result."),
            draw(validation, mark=best_step),
        ),
        (
            "Implicit accuracy",
            "Share of pairs whose winner has the higher implicit reward. The held-out pairs are measured at fixed "
            "draws. The dashed line marks chance.",
            draw(accuracy, level=0.5),
        ),
        (
            "Error against the reference's",
            "Policy error divided by reference error, for each quarter of the timesteps, over winners and losers. "
            "A ratio far above 1 means that the images fall apart, even where implicit accuracy is high.",
            draw(_error_ratios(steps, window), level=1.0),
        ),
        (
            "Winners and losers apart",
            "Policy error divided by reference error, of winners and of losers. If both are above 1, the policy is "
            "moving away from both images.",
            draw(_sides(steps, window), level=1.0),
        ),
        ("Loss", "The loss stays near its start while images improve, so the other curves say more.", draw(loss)),
    ]
    return [{"title": title, "note": note, "svg": svg} for title, note, svg in drawn if svg]


def _error_ratios(steps: Rows, window: int) -> list[Line]:
    lines = []
    for quarter, (label, colour) in enumerate(QUARTERS.items(), 1):
        policy = line(steps, f"policy_error_q{quarter}", label, colour).smoothed(window)
        reference = line(steps, f"reference_error_q{quarter}", "").smoothed(window)
        if len(reference.x):  # a run without a reference has none
            lines.append(Line(policy.label, policy.x, policy.y / reference.y, colour))
    return lines


def _sides(steps: Rows, window: int) -> list[Line]:
    """Divide winners' and losers' errors by the reference's; nothing for runs that did not note them apart."""
    lines = []
    for side, colour in SIDES.items():
        policy = line(steps, f"{side}_error", f"{side}s", colour).smoothed(window)
        reference = line(steps, f"reference_{side}_error", "").smoothed(window)
        if len(reference.x):
            lines.append(Line(policy.label, policy.x, policy.y / reference.y, colour))
    return lines


def draw(lines: Sequence[Line], level: float | None = None, mark: float | None = None) -> str:
    """Draw curves with a legend.

    Args:
        level: value to draw a dashed line at.
        mark: step to draw a dotted line at.

    Returns:
        An <svg> element, or nothing where no curve has a point.
    """
    return curves.draw([one for one in lines if len(one.x)], level, mark)


def one_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Make a figure of a width and height in inches with one pair of axes; pyplot, slow to import, isn't needed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def style(salt: str) -> Any:
    """Return matplotlib's settings for a figure; text stays text, and the salt makes its ids the same each time."""
    return {"font.family": "sans-serif", "font.size": 10, "svg.fonttype": "none", "svg.hashsalt": salt}


def svg(figure: Figure) -> str:
    """Return a figure as an <svg> element."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
