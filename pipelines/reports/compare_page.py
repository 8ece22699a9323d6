"""The page that shows training runs beside one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.base import config_files
from infra.pages import charts
from infra.pages.made import describe
from infra.pages.page import template
from pipelines.reports.compare_config import CompareConfig

if TYPE_CHECKING:
    from pipelines.reports.compare import Run

TEMPLATES = Path(__file__).parent / "templates"
COLOURS = ("#0b6e6e", "#b4691f", "#5a4fcf", "#a8325e", "#4d7c0f", "#1d6fb8", "#7a5c3e", "#586071")
CURVES = {  # title: the notes' name, what it is, the level that a dashed line marks
    "Validation score": ("validation_median", "Median score of images of captions that training never saw.", None),
    "Held-out accuracy": (
        "held_out_accuracy",
        "Share of held-out pairs whose winner has the higher implicit reward; the table says of how many. The dashed "
        "line marks chance.",
        0.5,
    ),
    "Implicit accuracy in training": (
        "accuracy",
        "The same share on the pairs that are trained on, smoothed. It says how well a run fits, not how good it is.",
        0.5,
    ),
    "Loss": ("loss", "Smoothed. Losses of runs with another β or objective can’t be compared.", None),
}


def render(config: CompareConfig, compared: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """Render the page.

    Args:
        compared: what comparison.json holds.
    """
    words = ["python", "pipelines/compare.py", *config.runs]
    words += ["--reports", *config.reports] if config.reports else []
    return template("compare.html.jinja", TEMPLATES).render(
        compared=compared,
        judges=compared["judges"],
        colours={run.name: COLOURS[place % len(COLOURS)] for place, run in enumerate(runs)},
        charts=_charts(runs),
        settings=config_files.as_yaml(config),
        made=describe(" ".join([*words, "--output", config.output])),
    )


def _charts(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Draw each curve that any run has, a line for each run."""
    drawn = []
    for title, (name, note, level) in CURVES.items():
        lines = []
        for place, run in enumerate(runs):
            of_checkpoints = name.startswith(("validation", "held_out"))
            rows = run.assessments if of_checkpoints else run.steps
            window = 1 if of_checkpoints else max(1, len(rows) // 12)
            lines.append(charts.line(rows, name, run.name, COLOURS[place % len(COLOURS)]).smoothed(window))
        svg = charts.draw(lines, level=level)
        if svg:
            drawn.append({"title": title, "note": note, "svg": svg})
    return drawn
