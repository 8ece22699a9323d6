"""Curves: the running mean by hand, legends that tell them apart, nothing drawn where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from infra.pages import charts

STEPS = [{"step": step, "loss": 0.7, "accuracy": 0.5} for step in (1, 2, 3)]


def test_smooth_by_hand() -> None:
    # Full windows of 2: (1+3)/2 and (3+8)/2, at the second and third step.
    found = charts.Line("a", np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 8.0])).smoothed(2)
    assert (found.x.tolist(), found.y.tolist()) == ([2.0, 3.0], [2.0, 5.5])
    assert len(charts.smooth(np.array([1.0]), 2)) == 0


def test_missing_values_are_left_out() -> None:
    found = charts.line([{"step": 1, "a": 2.0}, {"step": 2}, {"step": 3, "a": None}], "a", "a")
    assert (found.x.tolist(), found.y.tolist()) == ([1.0], [2.0])


def test_aligned_and_control_are_told_apart() -> None:
    rows = [{"step": 0, "validation_median": 0.4}, {"step": 2, "validation_median": 0.5}]
    validation = charts.training_charts(STEPS, rows, rows, best_step=2)[0]
    assert validation["title"] == "Validation score"
    assert ">aligned</text>" in validation["svg"]
    assert ">control</text>" in validation["svg"]
    assert charts.ALIGNED in validation["svg"]
    assert charts.CONTROL in validation["svg"]


def test_a_chart_without_data_is_left_out() -> None:
    titles = [chart["title"] for chart in charts.training_charts(STEPS, [], [], best_step=None)]
    assert titles == ["Implicit accuracy", "Loss"]
    assert charts.draw([]) == ""


def test_error_ratio_by_hand() -> None:
    rows = [{"step": s, "policy_error_q1": p, "reference_error_q1": 2.0} for s, p in ((1, 2.0), (2, 3.0))]
    first = charts._error_ratios(rows, 1)[0]
    assert first.y.tolist() == [1.0, 1.5]


def test_charts_are_the_same_every_time() -> None:
    assert charts.training_charts(STEPS, [], [], None) == charts.training_charts(STEPS, [], [], None)


def test_a_run_without_a_reference_has_no_error_ratio() -> None:
    rows = [{"step": s, "policy_error_q1": 2.0, "reference_error_q1": None, "loss": 0.1} for s in (1, 2)]
    assert charts._error_ratios(rows, 1) == []
    assert [chart["title"] for chart in charts.training_charts(rows, [], [], None)] == ["Loss"]


def test_winners_and_losers_are_drawn_apart() -> None:
    errors = {"winner_error": 0.3, "loser_error": 0.6, "reference_winner_error": 0.2, "reference_loser_error": 0.5}
    winners, losers = charts._sides([{"step": 1, **errors}], 1)
    assert (winners.label, winners.y.tolist()) == ("winners", pytest.approx([1.5]))
    assert (losers.label, losers.y.tolist()) == ("losers", pytest.approx([1.2]))
    assert charts._sides(STEPS, 1) == []


def test_a_line_that_is_not_drawn_is_not_spoken_of() -> None:
    rows = [{"step": 1, "validation_median": 0.5}, {"step": 2, "validation_median": 0.6}]
    with_best, without = (charts.training_charts(STEPS, rows, [], best)[0] for best in (2, None))
    assert with_best["note"].endswith("The dotted line marks the checkpoint kept as the result.")
    assert "dotted line" not in without["note"]
