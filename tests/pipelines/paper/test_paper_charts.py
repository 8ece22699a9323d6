"""The paper's figures: intervals coloured by what they decide, values where they belong, the same bytes each time."""

from __future__ import annotations

from typing import Any

import pytest

from infra.pages.charts import ALIGNED, BATCH, CONTROL
from pipelines.paper import paper_charts as charts


def rate(value: float, reach: float = 0.05) -> dict[str, Any]:
    return {"value": value, "low": value - reach, "high": value + reach, "per_seed": [value - 0.01, value + 0.01]}


@pytest.mark.parametrize(("value", "colour"), [(0.7, ALIGNED), (0.3, CONTROL), (0.52, BATCH)])
def test_an_interval_is_coloured_by_its_side(value: float, colour: str) -> None:
    drawn = charts.forest([("DPO", rate(value))], "wins, %")
    assert colour in drawn
    assert [one for one in (ALIGNED, CONTROL, BATCH) if one in drawn] == [colour]
    assert ">DPO</text>" in drawn
    assert drawn == charts.forest([("DPO", rate(value))], "wins, %")


def test_titles_are_escaped() -> None:
    drawn = charts.forest([("<script>", rate(0.5))], "wins, %")
    assert "&lt;script&gt;" in drawn
    assert "<script>" not in drawn


def test_betas_and_series_are_named() -> None:
    cells = {str(beta): {"win_rate": {"oracle": rate(0.6)}} for beta in (50, 500, 5000)}
    drawn = charts.beta_chart({"fixed": cells, "scaled": cells}, "oracle", {"fixed": "one rate", "scaled": "1/β"})
    for text in ("5,000", "one rate", "1/β", "wins over the base, %, by oracle"):
        assert f">{text}</text>" in drawn


def test_boxes_survival_and_outcomes_name_what_they_show() -> None:
    box = {"p5": 0.1, "q1": 0.2, "median": 0.3, "q3": 0.4, "p95": 0.5}
    assert ">winners</text>" in charts.boxes({"winners": box}, "score")
    figures = {
        "cap": 5,
        "null": {"survival": [1, 0.5, 0.33, 0.25, 0.2]},
        "oracle": {"survival": [1, 0.7, 0.5, 0.4, 0.4]},
    }
    assert ">by oracle</text>" in charts.survival(figures, ["oracle"])
    shares = {"win": {"value": 0.65}, "draw": {"value": 0.31}, "loss": {"value": 0.04}}
    drawn = charts.outcomes({"edits": {"strength": 0.6, "oracle": shares}}, ["oracle"])
    assert ">65</text>" in drawn
    assert ">4</text>" not in drawn  # too narrow for its figure
