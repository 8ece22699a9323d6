"""Alternating measurement of two ways to do the same work, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def alternate(
    ours: Callable[[], float], bare: Callable[[], float], rounds: int, unit: str, json_path: str | None, **facts: Any
) -> float:
    """Measure ours and bare in turn, after one unmeasured turn each, and report the ratio of their totals.

    Args:
        ours, bare: do a fixed amount of work once and return its throughput in unit; higher is better.
        json_path: file for {"ratio", "samples", "unit"} and the facts, or None.

    Returns:
        The ratio of the medians, ours over bare: 1 means no overhead.
    """
    ours(), bare()
    samples = []
    print(f"{'round':>5}  {'ours':>12}  {'bare':>12}  {'ratio':>6}   ({unit})", flush=True)
    for number in range(1, rounds + 1):
        pair = (ours(), bare()) if number % 2 else tuple(reversed((bare(), ours())))
        samples.append(pair)
        print(f"{number:>5}  {pair[0]:>12.2f}  {pair[1]:>12.2f}  {pair[0] / pair[1]:>6.3f}", flush=True)
    ratio = _median([a for a, _ in samples]) / _median([b for _, b in samples])
    print(f"ratio of medians {ratio:.3f}", flush=True)
    if json_path:
        told = {"ratio": ratio, "samples": samples, "unit": unit, **facts}
        Path(json_path).write_text(json.dumps(told, indent=2) + "\n")
    return ratio


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
