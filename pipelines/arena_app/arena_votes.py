"""Votes: the three questions, an append-only file of answers that outlives any kill, and the majority of raters.

The questions are those of Wallace et al. 2023, Sec. 5.1: general preference, visual appeal, prompt alignment.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import json
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from infra.base import files, json_text
from infra.base.errors import UserError

VOTES = "votes.jsonl"
RATER = re.compile(r"[A-Za-z0-9._-]{1,40}")
SIDES = ("left", "right")
ANSWERS = (*SIDES, "none")
QUESTIONS = {
    "general": "All in all, which image would you choose for this prompt?",
    "appeal": "Leaving the prompt aside, which image looks better?",
    "alignment": "Which image shows more exactly what the prompt says?",
}
Choice = int | None  # 0 the base's image, 1 the policy's, None no preference


@dataclass(frozen=True, kw_only=True)
class Vote:
    """One rater's answers to one pair."""

    rater: str
    image_id: int  # of the pair
    left: int  # which model stood on the left: 0 the base, 1 the policy
    answers: Mapping[str, str]  # left, right or none, by question
    at: str  # ISO 8601, UTC

    def choice(self, question: str) -> Choice:
        """Return which model's image was preferred."""
        answer = self.answers[question]
        return None if answer == "none" else self.left if answer == "left" else 1 - self.left


Votes = dict[tuple[str, int], Vote]  # by rater and image_id


def check_rater(name: object) -> str:
    """Return a rater's name in lower case, so that Ann and ann are one person.

    Raises:
        ValueError: if it is not a name.
    """
    if not isinstance(name, str) or not RATER.fullmatch(name):
        raise ValueError("a name has 1 to 40 letters, digits, hyphens, underscores or dots")
    return name.lower()


def check_answers(answers: object) -> dict[str, str]:
    """Return the answers to all questions.

    Raises:
        ValueError: if one is missing, unknown, or no answer.
    """
    if not isinstance(answers, dict) or set(answers) != set(QUESTIONS):
        raise ValueError(f"answers must be to {', '.join(QUESTIONS)}")
    if any(answer not in ANSWERS for answer in answers.values()):
        raise ValueError(f"an answer is one of {', '.join(ANSWERS)}")
    return {question: answers[question] for question in QUESTIONS}


def read_votes(path: str) -> tuple[Votes, int]:
    """Read a file of votes, a later one in place of an earlier one of the same rater and pair.

    Returns:
        The votes, in the order of their last lines, and the length in bytes of the complete lines. An incomplete last
        line was being written when the server died; its rater never heard that the vote was kept.

    Raises:
        UserError: naming the line that is no vote.
    """
    content = Path(path).read_bytes() if Path(path).exists() else b""
    complete = content.rfind(b"\n") + 1
    votes: Votes = {}
    for number, line in enumerate(content[:complete].splitlines(), 1):
        try:
            vote = _vote(json_text.parse(line))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path}: line {number} is not a vote ({error}); remove that line, or restore the file"
            ) from error
        votes.pop((vote.rater, vote.image_id), None)
        votes[vote.rater, vote.image_id] = vote
    return votes, complete


def _vote(row: dict[str, Any]) -> Vote:
    vote = Vote(**row)
    if check_rater(vote.rater) != vote.rater or vote.left not in (0, 1) or not isinstance(vote.image_id, int):
        raise ValueError("rater, left or image_id is out of range")
    check_answers(vote.answers)
    datetime.datetime.fromisoformat(vote.at)
    return vote


def _line(vote: Vote) -> bytes:
    return (json.dumps(asdict(vote)) + "\n").encode()


def _write(file: FileIO, content: bytes) -> None:
    """Append to a file, and return once it is on the disk."""
    if file.write(content) != len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file.fileno())


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The votes that a file of votes has kept: it may grow, and never holds less or others again."""

    count: int  # one per rater and pair
    bytes: int  # of the complete lines
    sha256: str  # of these bytes, in hex

    def is_in(self, path: str) -> bool:
        """Say whether a file of votes begins with these."""
        content = Path(path).read_bytes()[: self.bytes]
        return len(content) == self.bytes and hashlib.sha256(content).hexdigest() == self.sha256


class VoteLog:
    """The file of votes while a server writes it. The folder's lock keeps a second server out."""

    def __init__(self, path: str, note: Callable[[Kept], None] = lambda _: None) -> None:
        """Open the file.

        Args:
            note: called with what is kept, at once and with each vote before its rater hears that it is kept.
        """
        self._path = path
        self._note = note
        self._votes, complete = read_votes(path)
        content = Path(path).read_bytes()[:complete] if Path(path).exists() else b""
        self._digest = hashlib.sha256(content)
        self._bytes = complete
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  (closed by close)
        incomplete = os.fstat(self._file.fileno()).st_size - complete
        if incomplete:
            print(f"{path}: {incomplete} bytes at its end are no whole vote and are cut", file=sys.stderr, flush=True)
        self._file.truncate(complete)  # else the next vote would continue an incomplete line
        files.flush(str(Path(path).parent))
        self._lock = threading.Lock()
        note(self.kept())

    def kept(self) -> Kept:
        """Describe what is kept."""
        return Kept(count=len(self._votes), bytes=self._bytes, sha256=self._digest.hexdigest())

    def add(self, rater: str, image_id: int, left: int, answers: Mapping[str, str]) -> None:
        """Append a vote, and return once it is on the disk.

        Where somebody deleted the file meanwhile, all votes are written to a new one.

        Raises:
            OSError: if it cannot be written, or another file took the place of this one, which is then as it was.
        """
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        vote = Vote(rater=rater, image_id=image_id, left=left, answers=dict(answers), at=at)
        line = _line(vote)
        with self._lock:
            size = os.fstat(self._file.fileno()).st_size
            try:
                _write(self._file, line)
                if not self._is_there():
                    self._write_anew([*self._votes.values(), vote])
                    line = b""
            except OSError:
                self._file.truncate(size)
                raise
            self._votes[rater, image_id] = vote
            self._digest.update(line)
            self._bytes += len(line)
            self._note(self.kept())

    def _is_there(self) -> bool:
        """Say whether the file that is appended to is the one at its path."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
        return False

    def _write_anew(self, votes: Iterable[Vote]) -> None:
        """Write votes to a new file in the place of the deleted one."""
        try:
            file = open(self._path, "xb", buffering=0)  # noqa: SIM115  (closed by close)
        except FileExistsError:
            raise OSError(errno.ESTALE, f"somebody replaced {self._path}") from None
        content = b"".join(_line(vote) for vote in votes)
        try:
            _write(file, content)
            files.flush(str(Path(self._path).parent))
        except OSError:
            os.unlink(self._path)
            file.close()
            raise
        print(
            f"{self._path}: was deleted while the arena ran; all votes are written again", file=sys.stderr, flush=True
        )
        self._file.close()
        self._file = file
        self._digest = hashlib.sha256(content)
        self._bytes = len(content)

    def given(self, rater: str) -> dict[int, Mapping[str, str]]:
        """Return a rater's answers by image_id."""
        with self._lock:
            return {vote.image_id: vote.answers for vote in self._votes.values() if vote.rater == rater}

    def count(self) -> int:
        """Count the votes, one per rater and pair."""
        with self._lock:
            return len(self._votes)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def majority(choices: Iterable[Choice]) -> Choice:
    """Return the answer that most raters gave; None, a tie, where two share the first place or "none" holds it."""
    ranked = Counter(choices).most_common(2)
    if len(ranked) == 2 and ranked[0][1] == ranked[1][1]:
        return None
    return ranked[0][0]
