"""Hands on running jobs: the moment and the file follow from the seed, and no round ends silently wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.base.errors import UserError
from infra.base.files import ROOT
from infra.faults import chaos, hands_rounds
from infra.faults.at_work import Hand, Note, undo
from infra.faults.chaos_config import ChaosConfig

JOB = """
import sys
from pathlib import Path
from infra.faults.at_work import Hand
folder = Path(sys.argv[1])
hand = Hand(folder, sys.argv[2], int(sys.argv[3]), "seed")
hand.begin()
for number in range(4):
    (folder / "out" / "store" / f"{number}.txt").write_text(str(number))
hand.end()
"""


def struck(base: Path, touch: str, at: int) -> tuple[Hand, Note]:
    """Write four files in a process of its own, one of which is touched before the operation that is counted."""
    folder = base / "place"
    (folder / "out" / "store").mkdir(parents=True)
    (folder / "in").mkdir()
    subprocess.run([sys.executable, "-c", JOB, str(folder), touch, str(at)], check=True, cwd=ROOT)
    hand = Hand(folder, touch, at, "seed")
    return hand, hand.read()


def test_a_file_is_touched_at_the_operation_that_is_counted_and_the_touch_undone(tmp_path: Path) -> None:
    hand, note = struck(tmp_path, "zeroed", 3)  # before the third file is opened, when two are there
    assert (note.moments, note.error) == (4, "")
    path = Path(note.folder) / note.file
    assert path.name in ("0.txt", "1.txt")
    assert path.read_bytes() == b"\0"
    undo(note, hand)
    assert path.read_text() == path.stem


def test_nothing_is_touched_where_there_is_nothing_yet(tmp_path: Path) -> None:
    _, note = struck(tmp_path, "gone", 1)  # it waits for the first file
    assert note.file == "0.txt"
    assert not (Path(note.folder) / note.file).exists()


def test_what_the_job_wrote_anew_stays_when_a_touch_is_undone(tmp_path: Path) -> None:
    hand, note = struck(tmp_path, "gone", 4)
    path = Path(note.folder) / note.file
    path.write_text("anew")
    undo(note, hand)
    assert path.read_text() == "anew"


def test_hands_are_given_alone() -> None:
    with pytest.raises(UserError, match="--victims hands node: hands need no cluster; give them alone"):
        chaos.main(ChaosConfig(victims=("hands", "node")))


@pytest.mark.chaos
@pytest.mark.long
def test_rounds_of_touches_end_right_repaired_or_refused() -> None:
    command = [sys.executable, "infra/chaos.py", "--victims", "hands", "--rounds", "8", "--seed", "7"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("; 0 silent, 0 lost, 0 doubled")


def test_a_sentence_names_what_to_delete() -> None:
    assert hands_rounds.DELETE.findall("x: torn; delete /a/b c, or delete /a/d; then") == ["/a/b", "/a/d"]
