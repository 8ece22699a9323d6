"""Files under other hands: each touch of each file of each kind of folder ends as the table says, never silently."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hands_material import MAKERS

from infra.base.files import ROOT
from infra.base.verifying import refusal
from infra.faults import hands
from infra.faults.hands_uses import KINDS

CELLS = [(row, touch) for row in hands.ROWS for touch in hands.TOUCHES]
QUICK = ("copied beside", "gone", "zeroed", "swapped")  # the others are in make chaos


@pytest.fixture(scope="module")
def folders() -> Iterator[Path]:
    """Make each kind of folder once, and its older version; below a folder that other users may enter."""
    with tempfile.TemporaryDirectory(prefix="hands-") as place:
        base = Path(place)
        base.chmod(0o755)
        for kind, make in MAKERS.items():
            for name, version in (("clean", 1), ("older", 2)):
                (base / name).mkdir(exist_ok=True)
                make(base / name / kind, version)
        yield base


@contextlib.contextmanager
def as_another_user(folder: Path) -> Iterator[None]:
    """Let a user own the folder whom file modes bind; root reads everything."""
    if os.geteuid() != 0:
        yield
        return
    for place, _, names in os.walk(folder):
        for path in (place, *(os.path.join(place, name) for name in names)):
            os.chown(path, hands.OTHERS, -1, follow_symlinks=False)
    os.seteuid(hands.OTHERS)
    try:
        yield
    finally:
        os.seteuid(0)


def tried(kind: str, folder: Path) -> tuple[str, str, str]:
    """Use a folder; returns what was read, the sentence of a refusal, and what stderr said."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            return KINDS[kind].use(folder), "", errors.getvalue()
        except Exception as error:
            sentence = refusal(error)
            if sentence is None:
                raise
            return "", sentence, errors.getvalue()


def check_cell(row: hands.Row, touch: str, folders: Path, base: Path) -> None:
    folder = base / "parent" / row.kind
    shutil.copytree(folders / "clean" / row.kind, folder)
    clean, refused, said = tried(row.kind, folder)
    assert (refused, said) == ("", "")
    place = hands.Place(folder=folder, file=row.file, partner=row.partner, older=folders / "older" / row.kind)
    touched = hands.TOUCHES[touch](place)
    with as_another_user(base) if touch == "unreadable" else contextlib.nullcontext():
        wrong = list(KINDS[row.kind].problems(touched))
        read, sentence, said = tried(row.kind, touched)
    outcome = row.outcome(touch)
    if outcome == "refused":
        assert sentence, f"silent: {wrong}"
        assert str(touched) in sentence
        assert len(sentence.splitlines()) == 1
        assert any(word in sentence for word in ("restore", "delete", "give", "run ", "ask "))
        assert wrong, "--verify says nothing"
    else:
        assert sentence == ""
        assert read == clean
        assert bool(said) == (outcome == "repaired"), said
        assert outcome == "repaired" or touch in ("gone", "renamed") or not wrong


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hands-") as place:
        Path(place).chmod(0o755)
        yield Path(place)


def named(cell: tuple[hands.Row, str]) -> str:
    return f"{cell[0].kind}-{cell[0].file}-{cell[1]}".replace(" ", "_")


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell[1] in QUICK], ids=named)
def test_a_touched_file_is_right_repaired_or_refused(cell: tuple[hands.Row, str], folders: Path, base: Path) -> None:
    check_cell(*cell, folders, base)


@pytest.mark.long
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell[1] not in QUICK], ids=named)
def test_the_other_touches(cell: tuple[hands.Row, str], folders: Path, base: Path) -> None:
    check_cell(*cell, folders, base)


def test_every_kind_has_a_row_and_every_row_its_file(folders: Path) -> None:
    assert {row.kind for row in hands.ROWS} == set(KINDS) == set(MAKERS)
    for row in hands.ROWS:
        assert (folders / "clean" / row.kind / row.file).is_file()
        assert set(row.unusual) <= set(hands.TOUCHES)


def test_the_page_has_the_table() -> None:
    assert hands.table() in (ROOT / "docs" / "operations.md").read_text()
