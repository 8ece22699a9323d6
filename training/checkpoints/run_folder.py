"""What a run folder holds, by name: notes, checkpoints and the result; and whether the result is there."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

from infra.base import files
from infra.base.result_files import FACTS, read_facts

STEPS = "metrics.jsonl"
ASSESSMENTS = "assessments.jsonl"
SAMPLES = "samples"  # grids of images
VALIDATION = "step"  # begins the name of a grid of validation images
SAMPLE = "sample"  # begins the name of a grid of --sample-prompts
PAGE = "index.html"
RESULT = "result"
REFUSAL = "refusal.json"  # of a worker, for the driver; while a run goes on
RAY = "ray"  # Ray Train's own; while a run goes on


def read_notes(run: str, name: str) -> list[dict[str, Any]]:
    """Read the notes of a kind in a run folder, local or on S3.

    A last line cut short by a kill is left out. So is what a power cut left, NULs or torn lines; stderr says so.
    """
    path = files.join(run, name)
    lines = files.read_bytes(path).split(b"\n")[:-1] if files.exists(path) else []
    rows = [row for row in map(parse_note, lines) if row is not None]
    if len(rows) < len(lines):
        _say_once(f"{path}: {len(lines) - len(rows)} of its lines cannot be read and are left out")
    return rows


def parse_note(line: bytes) -> dict[str, Any] | None:
    """Read one line of notes; None where a power cut left no whole one. NULs before it are no part of it."""
    try:
        row = json.loads(line.strip(b"\0"))
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


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
    link = Path(files.join(output, RESULT))
    if not files.is_remote(output) and link.is_symlink():
        link.unlink()
        return
    files.remove(files.join(output, RESULT, FACTS))
    files.remove(files.join(output, RESULT))
