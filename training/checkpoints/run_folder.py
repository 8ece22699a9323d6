"""What a run folder holds, by name: notes, checkpoints and the result; and whether the result is there."""

from __future__ import annotations

import functools
import sys
import uuid
from pathlib import Path
from typing import Any

from infra.base import files, json_text
from infra.base.errors import UserError
from infra.base.result_files import FACTS, read_facts

IDENTITY = "run.json"  # an id of the run's own, by which notes of another run are told apart
ID = "run"  # in it and in each note
STEPS = "metrics.jsonl"
ASSESSMENTS = "assessments.jsonl"
SAMPLES = "samples"  # grids of images
VALIDATION = "step"  # begins the name of a grid of validation images
SAMPLE = "sample"  # begins the name of a grid of --sample-prompts
PAGE = "index.html"
TRACKERS = "trackers.json"  # ids of the run at experiment trackers, and what was sent
STORES = "stores.json"  # content hashes of the stores that a run began with
RESULT = "result"
REFUSAL = "refusal.json"  # of a worker, for the driver; while a run goes on
RAY = "ray"  # Ray Train's own; while a run goes on


def read_notes(run: str, name: str) -> list[dict[str, Any]]:
    """Read the notes of a kind in a run folder, local or on S3.

    A last line cut short by a kill is left out. So is what a power cut left, NULs or torn lines, and what is of another
    run; stderr says so.
    """
    path = files.join(run, name)
    lines = files.read_bytes(path).split(b"\n")[:-1] if files.exists(path) else []
    own = run_id(run) if lines else None
    rows = [row for row in (parse_note(line, own) for line in lines) if row is not None]
    if len(rows) < len(lines):
        left_out = len(lines) - len(rows)
        _say_once(f"{path}: {left_out} of its lines cannot be read, or are of another run, and are left out")
    return rows


def parse_note(line: bytes, own: str | None = None) -> dict[str, Any] | None:
    """Read one line of notes; None where a power cut left no whole one. NULs before it are no part of it.

    Args:
        own: the run's id. A line with another one is of another run, and none of these notes; earlier versions wrote
            none.
    """
    try:
        row = json_text.parse(line.strip(b"\0"))
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return None
    return row if own is None or row.get(ID, own) == own else None


def run_id(run: str) -> str | None:
    """Read by which id a run's notes are known; None where there is none, or its file cannot be read."""
    path = files.join(run, IDENTITY)
    try:
        record = files.read_json(path) if files.is_file(path) else None
    except (UserError, OSError):  # torn, or out of reach: settle_run_id writes it again
        return None
    return record.get(ID) if isinstance(record, dict) else None


def settle_run_id(run: str) -> None:
    """Give a run an id, where it has none. If the id was lost it is that of the last note."""
    if run_id(run) is not None:
        return
    noted = [row[ID] for row in read_notes(run, STEPS) if ID in row]
    files.write_json(files.join(run, IDENTITY), {ID: noted[-1] if noted else uuid.uuid4().hex[:12]})


@functools.cache  # notes are read at each checkpoint
def _say_once(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def is_finished(output: str | Path, steps: int) -> bool:
    """Say whether a run has its result after so many steps; the facts are written last. More steps go on from there.

    A run that --stop-when ended is finished, too, whatever steps it should have taken.

    Args:
        output: the run folder, local or on S3.
    """
    path = files.join(str(output), RESULT, FACTS)
    if not files.is_file(path):
        return False
    facts = read_facts(files.join(str(output), RESULT))
    return "stopped" in facts or facts.get("train", {}).get("steps", 0) >= steps


def remove_result(output: str) -> None:
    """Delete the result in a run folder, local or on S3; first the facts, without which it is none.

    Where the result is a link, the link alone goes: what it leads to may be used elsewhere.
    """
    result = files.join(output, RESULT)
    if files.is_remote(output) or not Path(result).is_symlink():
        files.remove(files.join(result, FACTS))
    files.remove(result)
