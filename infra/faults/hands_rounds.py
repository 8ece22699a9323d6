"""Touch files of running jobs, over and over: `nice python infra/chaos.py --victims hands --rounds 100 --seed 0`.

Each round takes a job at random, a touch of hands.TOUCHES, a moment between two of the job's file operations, and a
file that is there by then. A user's steps follow: the same command again; if it refuses, its remedy, which is to undo
the touch or to delete what the sentence names. In the end the result must be that of the undisturbed job. It is silent
wrong data where it is another and `--verify` finds nothing, and lost or doubled where no remedy brings it back.
"""

from __future__ import annotations

import random
import re
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from infra.base.errors import UserError
from infra.base.verifying import WRONG
from infra.faults import hands, hands_jobs
from infra.faults.at_work import MOVES, Hand, undo

REFUSED = 2
STOPPED = 143
REMEDIES = ("again", "undo", "again", "delete", "again")  # each followed by the same command
DELETE = re.compile(r"delete (/\S+?)(?:[;,)]| |$)")


@dataclass(frozen=True, kw_only=True)
class Round:
    """What is drawn for a round."""

    work: str
    touch: str
    at: int

    def __str__(self) -> str:
        return f"{self.work}: {self.touch} at operation {self.at}"


def drawn(chance: random.Random, moments: dict[str, int]) -> Round:
    """Draw a job, a touch and a moment."""
    work = chance.choice(sorted(moments))
    touch = chance.choice([touch for touch in hands.TOUCHES if touch != "unreadable"])  # which root reads all the same
    return Round(work=work, touch=touch, at=chance.randint(1, moments[work]))


def play(rounds: int, seed: int) -> Counter[str]:
    """Play rounds and count their outcomes.

    Raises:
        UserError: naming the round's folder, which stays, at a traceback, or silent, lost or doubled data.
    """
    hands_jobs.load()
    chance = random.Random(seed)
    base = Path(tempfile.mkdtemp(prefix="hands-"))
    for name, version in (("clean", 0), ("older", 1)):
        hands_jobs.prepare(base / name, version)
    moments = hands_jobs.finish(base / "clean")
    hands_jobs.finish(base / "older")
    results = {name: work.result(base / "clean" / name) for name, work in hands_jobs.WORKS.items()}
    print(f"undisturbed: {', '.join(f'{name} {count}' for name, count in moments.items())} operations", flush=True)
    outcomes: Counter[str] = Counter()
    for number in range(rounds):
        chosen = drawn(chance, moments)
        folder = base / f"round-{number}" / "place"
        folder.parent.mkdir()
        try:
            outcome = play_round(base, folder, chosen, f"{seed}-{number}", results[chosen.work])
            shutil.rmtree(folder.parent)
        except UserError as error:
            outcome = f"FAULT: {error}"
        print(f"round {number + 1} of {rounds}: {chosen}: {outcome}", flush=True)
        outcomes[outcome.split(":")[0]] += 1
    if outcomes["FAULT"]:
        raise UserError(f"{base}: {outcomes['FAULT']} of {rounds} rounds ended wrongly; their folders are there")
    shutil.rmtree(base)
    return outcomes


def play_round(base: Path, folder: Path, chosen: Round, seed: str, wanted: str) -> str:
    """Play one round and name its outcome."""
    work = hands_jobs.WORKS[chosen.work]
    _copy(base, chosen.work, folder)
    hand = Hand(folder, chosen.touch, chosen.at, seed, base / "older" / chosen.work)
    log = folder.with_name("job.log")
    ended = hands_jobs.run(work.script, work.flags(folder), log, hand)
    note = hand.read()
    if note.error:
        raise UserError(f"{folder}: the hand itself failed: {note.error}")
    if not note.folder:
        return "untouched: the job ended first"
    what = f"{Path(note.folder).name}/{note.file}"
    said: list[str] = []
    if chosen.touch in MOVES:
        _settle(folder, Path(note.touched))
        ended = hands_jobs.run(work.script, work.flags(folder), log)
    taken: list[str] = []
    for remedy in (*REMEDIES, ""):
        sentence = _sentence(ended, folder)
        if ended.code == hands_jobs.FINISHED:
            sentence = _found(work, folder, log)
            if sentence is None:
                if work.result(folder) != wanted:
                    raise UserError(f"{folder}: silent: {chosen} on {what}, and the result is another{_shown(said)}")
                outcome = "refused" if {"undo", "delete"} & set(taken) else "repaired" if taken else "right"
                return f"{outcome}: {what}{_shown(said)}"
        if sentence is not None:
            said.append(sentence)
        taken.append(remedy)
        match remedy:
            case "undo":
                undo(note, hand)
            case "delete":
                _delete_named(said, folder)
        ended = hands_jobs.run(work.script, work.flags(folder), log)
    raise UserError(f"{folder}: lost: {chosen} on {what} is not mended by its remedies{_shown(said)}")


def _copy(base: Path, name: str, folder: Path) -> None:
    shutil.copytree(base / "clean" / f"{name}-before", folder)


def _settle(folder: Path, touched: Path) -> None:
    """Bring a job's output that was moved, or copied to another host, to the place where the job is given again."""
    place = folder / "out"
    source = touched.parent
    if place.exists():  # what was copied, or what the job made anew meanwhile
        left = folder.with_name("left")
        place.rename(left)
        source = left / source.relative_to(place) if source.is_relative_to(place) else source
    source.rename(place)


def _sentence(ended: hands_jobs.Ended, folder: Path) -> str | None:
    """Return the sentence of a refusal; None of a job that finished or was stopped.

    Raises:
        UserError: for a traceback, or a job that hangs.
    """
    if ended.code in (hands_jobs.FINISHED, STOPPED):
        return None
    lines = [line for line in ended.said.splitlines() if line.startswith("error: ")]
    if ended.code != REFUSED or "Traceback" in ended.said or len(lines) != 1:
        raise UserError(f"{folder}: a traceback or no end (exit code {ended.code}): {ended.said}")
    return lines[0].removeprefix("error: ")


def _found(work: hands_jobs.Work, folder: Path, log: Path) -> str | None:
    """Return what --verify finds wrong; None where nothing."""
    for script, *flags in work.checks(folder):
        ended = hands_jobs.run(script, [*flags, "--verify"], log.with_name("verify.log"))
        if ended.code not in (hands_jobs.FINISHED, WRONG) or "Traceback" in ended.said:
            raise UserError(f"{folder}: --verify fails (exit code {ended.code}): {ended.said}")
        if ended.code == WRONG:
            return ended.said.splitlines()[0]
    return None


def _delete_named(said: list[str], folder: Path) -> None:
    for sentence in said:
        for name in DELETE.findall(sentence):
            place = Path(name)
            if place.is_relative_to(folder) and place.exists():
                shutil.rmtree(place) if place.is_dir() else place.unlink()


def _shown(said: list[str]) -> str:
    return f": {' | '.join(said)}" if said else ""
