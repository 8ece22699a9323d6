"""The benchmark of clusters of a command's own: its ratios by hand, and what a process is called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from infra.benchmarks.through_ray import BenchmarkConfig, Taken, name_of, report


def test_the_ratios_are_those_of_medians(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours takes 4, 5 and 9 s, the other 10, 11 and 30: 5 / 11; of CPU 6, 2 and 4 over 8, 8 and 8: 4 / 8."""
    ours = [Taken(seconds, cpu, {"driver": cpu}) for seconds, cpu in ((4.0, 6.0), (9.0, 2.0), (5.0, 4.0))]
    other = [Taken(seconds, 8.0, {}) for seconds in (30.0, 10.0, 11.0)]
    report(
        {"encode": {"ours": ours, "other": other}}, BenchmarkConfig(against="x", json=str(tmp_path / "figures.json"))
    )
    row = json.loads((tmp_path / "figures.json").read_text())["cases"]["encode"]
    assert row["ratio"] == pytest.approx(5 / 11)
    assert row["cpu_ratio"] == 0.5
    assert row["processes"]["ours"] == {"driver": 4.0}
    assert "| encode | 5.0 | 11.0 | 0.45 | 4.0 | 8.0 | 0.50 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["/x/python", "-u", "/y/ray/dashboard/agent.py", "--node-id=1"], "agent"),
        (["ray::_Copy.compute"], "ray::_Copy.compute"),
        (["/x/ray/core/raylet", "--head"], "raylet"),
        ([], ""),
    ],
)
def test_a_process_is_called_by_its_script_title_or_program(words: Sequence[str], name: str) -> None:
    assert name_of(words) == name
