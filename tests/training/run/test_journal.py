"""The notes of a run: what is forgotten at a resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from training.checkpoints.run_folder import ASSESSMENTS, STEPS, read_notes, run_id, settle_run_id
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
        (7, "\0" * 4096, 7),  # what a power cut leaves
        (7, "\0" * 10 + "\n", 7),
        (4, '{"st\n\0\0' + LINES[6], 4),
        (7, "[8]\n", 7),
    ],
)
def test_a_resumed_run_forgets_what_came_after_its_step(tmp_path: Path, step: int, tail: str, kept: int) -> None:
    path = tmp_path / STEPS
    path.write_text("".join(LINES) + tail)
    journal = Journal(tmp_path, enabled=True, steps=8)
    journal.rewind(step)
    journal.close()
    assert path.read_text() == "".join(LINES[:kept])


@pytest.mark.chaos
def test_what_is_cut_is_said_and_so_are_lost_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / STEPS
    path.write_text("".join(LINES[:3]) + "\0" * 100)
    journal = Journal(tmp_path, enabled=True, steps=8)
    journal.rewind(6)
    journal.close()
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: 100 bytes at its end are no whole line of this run and are cut",
        f"{path}: the notes of steps 4 to 6 are lost; training goes on without them",
    ]
    assert path.read_text() == "".join(LINES[:3])


@pytest.mark.chaos
def test_unreadable_notes_in_the_middle_are_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / STEPS).write_text(LINES[0] + "\0" * 9 + LINES[1] + '{"step": 3, \n' + LINES[3])
    assert [row["step"] for row in read_notes(str(tmp_path), STEPS)] == [1, 2, 4]
    assert "1 of its lines cannot be read, or are of another run, and are left out" in capsys.readouterr().err


@pytest.mark.chaos
def test_notes_of_another_run_are_left_out_and_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (tmp_path / name for name in ("one", "other"))
    for folder in (one, other):
        folder.mkdir()
        settle_run_id(str(folder))
        journal = Journal(folder, enabled=True, steps=8)
        journal.rewind(0)
        journal.assessment(2, {"validation_median": 0.5})
        journal.close()
    assert run_id(str(one)) != run_id(str(other))
    shutil.copy(other / ASSESSMENTS, one / ASSESSMENTS)
    assert read_notes(str(one), ASSESSMENTS) == []
    assert "1 of its lines cannot be read, or are of another run" in capsys.readouterr().err
    journal = Journal(one, enabled=True, steps=8)
    journal.rewind(2)
    journal.close()
    assert (one / ASSESSMENTS).read_text() == ""
    assert f"{one / ASSESSMENTS}: " in capsys.readouterr().err


@pytest.mark.parametrize("left", [None, "{", "[]"])
def test_a_run_that_lost_its_id_has_that_of_its_notes(tmp_path: Path, left: str | None) -> None:
    (tmp_path / STEPS).write_text('{"run": "c0ffee", "step": 1}\n')
    if left:
        (tmp_path / "run.json").write_text(left)
    settle_run_id(str(tmp_path))
    assert run_id(str(tmp_path)) == "c0ffee"


@pytest.mark.chaos
def test_a_run_whose_notes_were_lost_is_summed_up_all_the_same(tmp_path: Path) -> None:
    none = {"steps": 6, "pairs_per_second": None, "data_wait_fraction": None}
    assert Journal(tmp_path, enabled=True, steps=8).summary(6) == none


def test_notes_that_are_not_there_or_empty_are_no_error(tmp_path: Path) -> None:
    (tmp_path / STEPS).write_text("")
    journal = Journal(tmp_path, enabled=True, steps=8)
    journal.rewind(3)
    journal.close()
    assert journal.rows(STEPS) == []


def test_where_the_peak_is_known_a_step_notes_its_share_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(tmp_path, enabled=True, steps=8, most_pairs_per_second=50.0)
    journal.rewind(0)
    step = {"step": 1, "loss": 0.5, "accuracy": 0.5, "gradient_norm": 1.0, "pairs_per_second": 20.0}
    errors = dict.fromkeys(("winner_error", "loser_error", "reference_winner_error", "reference_loser_error"))
    journal.step(step | errors)
    journal.close()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"curves: tensorboard --logdir {tmp_path}"
    assert said[1].endswith("20.0 pairs/s  40% of the peak FLOPs")  # 20 of 50
    assert read_notes(str(tmp_path), STEPS)[0]["model_flop_utilisation"] == 0.4
