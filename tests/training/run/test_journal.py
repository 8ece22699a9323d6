"""The notes of a run: what is forgotten at a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.checkpoints.run_folder import STEPS
from training.run.journal import Journal

LINES = [json.dumps({"step": step, "loss": 0.5}) + "\n" for step in range(1, 8)]


@pytest.mark.parametrize(
    ("step", "tail", "kept"),
    [
        (4, "", 4),
        (4, '{"step": 8, "lo', 4),  # a line cut short by a kill
        (7, '{"step": 8, "lo', 7),
        (9, "", 7),
        (0, "", 0),
    ],
)
def test_a_resumed_run_forgets_what_came_after_its_step(tmp_path: Path, step: int, tail: str, kept: int) -> None:
    path = tmp_path / STEPS
    path.write_text("".join(LINES) + tail)
    journal = Journal(tmp_path, enabled=True)
    journal.rewind(step)
    journal.close()
    assert path.read_text() == "".join(LINES[:kept])


def test_notes_that_are_not_there_or_empty_are_no_error(tmp_path: Path) -> None:
    (tmp_path / STEPS).write_text("")
    journal = Journal(tmp_path, enabled=True)
    journal.rewind(3)
    journal.close()
    assert journal.rows(STEPS) == []
