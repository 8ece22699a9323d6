"""Curves as SVG text: places by hand, round numbers on the axes, names that are text and nothing else."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from infra.pages import curves
from infra.pages.curves import Axis, Curve


def curve(y: list[float], label: str = "a") -> Curve:
    return Curve(label, np.arange(len(y), dtype=np.float64), np.array(y), "#0b6e6e")


def test_an_axis_places_values_between_its_ends() -> None:
    across = curves.axis([0.0, 10.0], 100.0, 210.0)
    assert (across.low, across.high) == (-0.5, 10.5)  # a margin of a twentieth of ten
    assert [across.place(value) for value in (-0.5, 0.0, 10.5)] == [100.0, 105.0, 210.0]
    assert curves.axis([2.0, 2.0], 0.0, 1.0) == Axis(1.9, 2.1, 0.0, 1.0)
    assert curves.axis([0.0], 0.0, 1.0) == Axis(-0.5, 0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (-0.5, 10.5, [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
        (0.68, 0.702, [0.68, 0.685, 0.69, 0.695, 0.7]),
        (-3.0, 3.0, [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]),
        (1e6, 3e6, [1e6, 1.5e6, 2e6, 2.5e6, 3e6]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, told: list[float]) -> None:
    assert Axis(low, high, 0.0, 1.0).ticks() == pytest.approx(told)


def test_a_curve_is_a_line_through_its_finite_points() -> None:
    drawn = curves.draw([curve([1.0, float("nan"), 3.0, float("inf")])])
    points = re.findall(r'polyline points="([^"]*)"', drawn)
    assert len(points) == 1
    assert len(points[0].split()) == drawn.count("<circle") == 2
    left, right = (tuple(map(float, point.split(","))) for point in points[0].split())
    assert left[0] < right[0]
    assert left[1] > right[1]  # a pixel's number grows downwards
    assert curves.draw([curve([float("nan")])]) == ""


def test_many_points_are_not_marked_and_guides_are() -> None:
    drawn = curves.draw([curve([0.0] * curves.FEW)], level=0.5, mark=3.0)
    assert "<circle" not in drawn
    assert drawn.count("stroke-dasharray") == 2


def test_names_are_text_and_long_ones_have_a_line_each() -> None:
    drawn = curves.draw([curve([1.0], "<script>"), curve([2.0], "b" * 28)])
    root = ElementTree.fromstring(drawn)
    names = {one.text: one for one in root.iter("{http://www.w3.org/2000/svg}text")}
    assert names["<script>"].get("x") == names["b" * 28].get("x")
    short = curves.draw([curve([1.0], "a"), curve([2.0], "b")])
    assert float(re.findall(r'viewBox="0 0 \S+ (\S+)"', short)[0]) == float(root.get("height", "0")) - 18
