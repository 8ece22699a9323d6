"""Curves over steps, drawn as SVG text by hand: matplotlib, which reports draw with, takes a second to import.

A run draws its page each time that it is judged, so this is on the way of every training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

WIDTH = 374.0  # pixels of the whole drawing
LEFT = 52.0  # of the plot's edges from the drawing's
RIGHT = 12.0
BOTTOM = 40.0
PLOT_HEIGHT = 170.0
LEGEND_LINE = 18.0
SHORT = 27  # letters of a name, beside which another one has room
FEW = 30  # points from which on none is marked
MARGIN = 0.05  # of a range, left free beyond its ends
TICKS = 6  # numbers at an axis, about
INK = "#3b3f46"
GRID = "#eef0f3"
FRAME = "#8a9099"
TEXT = f'font-family="sans-serif" font-size="11" fill="{INK}"'


@dataclass(frozen=True)
class Curve:
    """One curve with its name for the legend."""

    label: str
    x: npt.NDArray[np.float64]  # [n] steps
    y: npt.NDArray[np.float64]  # [n]
    colour: str


@dataclass(frozen=True)
class Axis:
    """A range of values, and the pixels that its ends stand at."""

    low: float
    high: float
    begin: float
    end: float

    def place(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """List the round numbers in the range: multiples of 1, 2 or 5 times a power of ten, TICKS or so."""
        least = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(least))
        step = next(power * factor for factor in (1, 2, 5, 10, 20) if power * factor >= least)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def axis(values: Sequence[float], begin: float, end: float) -> Axis:
    """Return an axis that holds some values, with a margin; of equal ones it is as wide as a tenth of their size."""
    low = min(values)
    high = max(values)
    free = MARGIN * (high - low) or 0.05 * abs(low) or 0.5
    return Axis(low - free, high + free, begin, end)


def draw(curves: Sequence[Curve], level: float | None = None, mark: float | None = None) -> str:
    """Draw curves with a legend above them.

    Args:
        curves: each with a point; values that are not finite are left out.
        level: value to draw a dashed line at.
        mark: step to draw a dotted line at.

    Returns:
        An <svg> element, or nothing where no value is finite.
    """
    shown = [np.isfinite(curve.y) for curve in curves]
    steps = [float(x) for curve, kept in zip(curves, shown, strict=True) for x in curve.x[kept]]
    values = [float(y) for curve, kept in zip(curves, shown, strict=True) for y in curve.y[kept]]
    if not steps:
        return ""
    columns = 2 if max(len(curve.label) for curve in curves) <= SHORT else 1
    top = 8 + LEGEND_LINE * math.ceil(len(curves) / columns)
    across = axis([*steps, *([] if mark is None else [mark])], LEFT, WIDTH - RIGHT)
    up = axis([*values, *([] if level is None else [level])], top + PLOT_HEIGHT, top)
    height = top + PLOT_HEIGHT + BOTTOM
    parts = [
        *_legend(curves, columns),
        *_frame(across, up),
        *_guides(across, up, level, mark),
        *(part for curve, kept in zip(curves, shown, strict=True) for part in _curve(curve, kept, across, up)),
    ]
    size = f'width="{WIDTH:g}" height="{height:g}" viewBox="0 0 {WIDTH:g} {height:g}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n' + "\n".join(parts) + "\n</svg>\n"


def _legend(curves: Sequence[Curve], columns: int) -> Iterator[str]:
    """Name the curves, so many in a line."""
    for place, curve in enumerate(curves):
        x = 4 + (place % columns) * WIDTH / columns
        y = 14 + LEGEND_LINE * (place // columns)
        yield _line((x, y - 4), (x + 16, y - 4), curve.colour, 2)
        yield _text(x + 22, y, curve.label)


def _frame(across: Axis, up: Axis) -> Iterator[str]:
    """Draw grid lines, both axes and their numbers."""
    for value in up.ticks():
        y = up.place(value)
        yield _line((across.begin, y), (across.end, y), GRID, 1)
        yield _text(across.begin - 6, y + 4, f"{value:.6g}", "end")
    for value in across.ticks():
        x = across.place(value)
        yield _line((x, up.begin), (x, up.begin + 4), FRAME, 1)
        yield _text(x, up.begin + 17, f"{value:.6g}", "middle")
    yield _line((across.begin, up.end), (across.begin, up.begin), FRAME, 1)
    yield _line((across.begin, up.begin), (across.end, up.begin), FRAME, 1)
    yield _text((across.begin + across.end) / 2, up.begin + 33, "step", "middle")


def _guides(across: Axis, up: Axis, level: float | None, mark: float | None) -> Iterator[str]:
    """Draw the dashed line of a level and the dotted one of a step."""
    if level is not None:
        y = up.place(level)
        yield _line((across.begin, y), (across.end, y), "#c9ccd1", 1, ' stroke-dasharray="5 3"')
    if mark is not None:
        x = across.place(mark)
        yield _line((x, up.begin), (x, up.end), INK, 1, ' stroke-dasharray="1 3"')


def _curve(curve: Curve, kept: npt.NDArray[np.bool_], across: Axis, up: Axis) -> Iterator[str]:
    """Draw a curve through its finite values, each marked where they are few."""
    points = [(across.place(float(x)), up.place(float(y))) for x, y in zip(curve.x[kept], curve.y[kept], strict=True)]
    path = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" stroke="{curve.colour}" stroke-width="2" stroke-linejoin="round"/>'
    if len(points) < FEW:
        yield from (f'<circle cx="{x:.2f}" cy="{y:.2f}" r="2.5" fill="{curve.colour}"/>' for x, y in points)


def _line(start: tuple[float, float], end: tuple[float, float], colour: str, width: float, dashes: str = "") -> str:
    ends = f'x1="{start[0]:.2f}" y1="{start[1]:.2f}" x2="{end[0]:.2f}" y2="{end[1]:.2f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width:g}"{dashes}/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}" {TEXT}>{escape(text)}</text>'
