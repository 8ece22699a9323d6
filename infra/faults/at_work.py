"""A hand that touches one file of a running job, at a moment told by the job's own file operations.

Python tells each of them before it happens (sys.addaudithook), so a moment is a count: the same seed strikes between
the same two operations again. What Arrow's C++ opens is not told; this code flushes each of its files afterwards.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.faults import hands

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.listdir", "os.scandir", "shutil.rmtree"}
MOVES = ("parent moved", "other host")


@dataclass(frozen=True, kw_only=True)
class Note:
    """What a hand did, and how many moments the job has had."""

    moments: int
    folder: str = ""  # whose file was touched; empty where nothing was
    file: str = ""
    partner: str = ""
    touched: str = ""  # where the folder is now
    digest: str = ""  # of the file as the hand left it
    error: str = ""  # of the hand's own


class Hand:
    """Touches one file of a job's folder, once."""

    def __init__(self, folder: Path, touch: str = "", at: int = 0, seed: str = "", older: Path | None = None) -> None:
        """Choose what is to happen.

        Args:
            folder: of the round.
            touch: one of hands.TOUCHES; none: moments are counted only.
            at: the moment, from 1.
            seed: decides the file.
            older: the same folder as it was made another time, with other content.
        """
        self.folder = folder
        self.touch = touch
        self.at = at
        self.chance = random.Random(seed)
        self.older = older
        self.moments = 0
        self.busy = False
        self.done: dict[str, Any] = {}
        self.note = folder.with_name(f"{folder.name}.note.json")
        self.aside = folder.with_name(f"{folder.name}.aside")  # the file, and its partner, as they were

    def begin(self) -> None:
        """Watch this process."""
        sys.addaudithook(self._see)

    def end(self) -> None:
        """Note what happened."""
        self.busy = True
        self.note.write_text(json.dumps(asdict(Note(moments=self.moments, **self.done))))

    def read(self) -> Note:
        """Read what happened in the job's process."""
        return Note(**json.loads(self.note.read_text()))

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.busy or event not in EVENTS or not arguments or not isinstance(arguments[0], str):
            return
        if not arguments[0].startswith(str(self.folder)):
            return
        self.moments += 1
        if not self.touch or self.done or self.moments < self.at:
            return
        self.busy = True
        try:
            self.done = self._strike() or {}
        except Exception:
            self.done = {"error": traceback.format_exc()}
        self.busy = False

    def _strike(self) -> dict[str, Any] | None:
        """Touch a file; None where there is none yet that could be touched so."""
        outputs = sorted(path for path in (self.folder / "out").iterdir() if path.is_dir())
        tops = outputs if self.touch in MOVES else [*outputs, *sorted((self.folder / "in").iterdir())]
        candidates = [(top, path) for top in tops for path in _files(top)]
        if not candidates:
            return None
        top, path = self.chance.choice(candidates)
        if top.is_file():
            top = top.parent
        name = str(path.relative_to(top))
        others = [str(one.relative_to(top)) for one in _files(top) if one != path]
        partner = self.chance.choice(others) if others else ""
        older = self._older(path) if self.touch == "older copy" else None
        if (self.touch == "swapped" and not partner) or (self.touch == "older copy" and older is None):
            return None
        self.aside.mkdir()
        for kept, of in (("file", name), ("partner", partner)):
            if of:
                shutil.copy(top / of, self.aside / kept)
        if older is not None:
            copy = self.aside / "older" / name
            copy.parent.mkdir(parents=True)
            shutil.copy(older, copy)
        place = hands.Place(folder=top, file=name, partner=partner, older=self.aside / "older")
        touched = hands.TOUCHES[self.touch](place)
        now = touched / name
        digest = hashlib.sha256(now.read_bytes()).hexdigest() if now.is_file() else ""
        return {"folder": str(top), "file": name, "partner": partner, "touched": str(touched), "digest": digest}

    def _older(self, path: Path) -> Path | None:
        """Find a file of the same place in the older folder: of the same name, or else one beside where it would be."""
        assert self.older is not None
        there = self.older / path.relative_to(self.folder)
        if there.is_file():
            return there
        beside = [one for one in _files(there.parent) if one.suffix == path.suffix and one.parent == there.parent]
        return self.chance.choice(beside) if beside else None


def _files(folder: Path) -> Sequence[Path]:
    if folder.is_file():
        return [folder]
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def undo(note: Note, hand: Hand) -> None:
    """Undo a touch, as whoever did it would; what the job has written anew since stays."""
    folder = Path(note.touched)
    path = folder / note.file
    match hand.touch:
        case "copied beside":
            path.with_name(f"{path.stem} (1){path.suffix}").unlink(missing_ok=True)
        case "renamed":
            path.with_name(f"{path.name}.bak").unlink(missing_ok=True)
            _put_back(path, note, hand.aside / "file")
        case "unreadable":
            path.chmod(0o644)
        case "a link":
            if path.is_symlink():
                path.unlink()
                shutil.copy(hand.aside / "file", path)
        case "swapped":
            _put_back(path, note, hand.aside / "file")
            _put_back(folder / note.partner, None, hand.aside / "partner")
        case "gone" | "torn" | "zeroed" | "older copy":
            _put_back(path, note, hand.aside / "file")


def _put_back(path: Path, note: Note | None, kept: Path) -> None:
    """Put a file back where it is gone, or still as the hand left it."""
    is_changed = path.is_file() and note is not None and hashlib.sha256(path.read_bytes()).hexdigest() != note.digest
    if not is_changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kept, path)
