"""The benchmark of both engines: its ratios by hand, what it measures, and what a process is called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from infra.base.errors import UserError
from infra.benchmarks.engines import MARK, BenchmarkConfig, Processes, Taken, name_of, report, take


def test_the_ratios_are_those_of_medians(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours takes 4, 5 and 9 s, the other 10, 11 and 30: 5 / 11; of CPU 6, 2 and 4 over 8: 4 / 8; 700 MB of 2,000."""
    ours = [Taken(seconds, cpu, 700.0, {"driver": cpu}) for seconds, cpu in ((4.0, 6.0), (9.0, 2.0), (5.0, 4.0))]
    other = [Taken(seconds, 8.0, 2000.0, {}) for seconds in (30.0, 10.0, 11.0)]
    figures = tmp_path / "figures.json"
    report({"encode, ray": {"ours": ours, "other": other}}, BenchmarkConfig(against="x", json=str(figures)))
    row = json.loads(figures.read_text())["cases"]["encode, ray"]
    assert row["seconds"] == {"ours": 5.0, "other": 11.0, "ratio": pytest.approx(5 / 11)}
    assert row["cpu"] == {"ours": 4.0, "other": 8.0, "ratio": 0.5}
    assert row["memory"] == {"ours": 700.0, "other": 2000.0, "ratio": 0.35}
    assert row["processes"]["ours"] == {"driver": 4.0}
    assert "| encode, ray | 5.0 | 11.0 | 0.45 | 4.0 | 8.0 | 0.50 | 700 | 2000 | 0.35 |" in capsys.readouterr().out


def test_a_command_is_measured_to_its_first_step_and_to_its_end(tmp_path: Path) -> None:
    steps = tmp_path / "steps"
    command = [sys.executable, "-c", "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('step 1')"]
    taken = take([*command, str(steps)], tmp_path, tmp_path / "log", steps)
    assert 0 < taken["first step"].seconds <= taken["whole"].seconds
    with pytest.raises(UserError, match="exited 0"):
        take([*command, str(tmp_path / "other")], tmp_path, tmp_path / "log", tmp_path / "never")


def test_memory_is_that_of_all_processes_of_the_command_alone() -> None:
    """Two processes hold 50 MB each, beside less than 30 MB of Python; a third has another mark."""
    hold = [sys.executable, "-c", "held = b'x' * 50_000_000; print(len(held), flush=True); input()"]
    marks = ("seen", "seen", "of somebody else")
    begun = [
        subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {MARK: mark})
        for mark in marks
    ]
    for one in begun:
        assert one.stdout is not None
        assert one.stdout.readline() == b"50000000\n"
    processes = Processes("seen")
    processes.look()
    for one in begun:
        one.communicate(b"\n")
    taken = processes.taken(1.0)
    assert 100 <= taken.memory < 160
    assert taken.cpu > 0


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
