"""What a run folder holds, by name: notes, checkpoints and the result; and whether the result is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from infra.base import files

STEPS = "metrics.jsonl"
ASSESSMENTS = "assessments.jsonl"
RESULT = "result"
FACTS = "facts.json"


def read_notes(run: str, name: str) -> list[dict[str, Any]]:
    """Read the notes of a kind in a run folder, local or on S3; a last line cut short by a kill is left out."""
    path = files.join(run, name)
    lines = files.read_bytes(path).splitlines(keepends=True) if files.exists(path) else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def is_finished(output: str | Path, steps: int) -> bool:
    """Say whether a run has its result after so many steps; the facts are written last. More steps go on from there.

    Args:
        output: the run folder, local or on S3.
    """
    path = files.join(str(output), RESULT, FACTS)
    return files.is_file(path) and files.read_json(path)["train"]["steps"] >= steps


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
