"""What pages say of a run and of its judges: how long it trained, and the judges' names with their weights."""

from __future__ import annotations

from collections.abc import Iterable

from infra.base import files
from labelers.clips.weights import world_folder
from pipelines.judging import score_files
from training.checkpoints.run_folder import STEPS, read_notes


def training_seconds(run: str) -> float | None:
    """Add up the seconds of a run's steps; None where the notes hold no times."""
    rows = read_notes(files.resolve(run), STEPS)
    if not rows or any("seconds" not in row for row in rows):
        return None
    return float(sum(row["seconds"] for row in rows))


def judge_titles(folder: str, judges: Iterable[str]) -> dict[str, str]:
    """Name judges with the weights by which they scored a folder of images: by name, for example "clip (published)"."""
    return {name: _title(folder, name) for name in judges}


def _title(folder: str, name: str) -> str:
    if not world_folder(name).is_dir():  # it has no weights to choose
        return name
    flags = score_files.read_manifest(folder, name).get("config", {}).get("weights", [])
    single = dict(flag.split("=", 1) for flag in flags if "=" in flag)
    for_all = [flag for flag in flags if "=" not in flag]
    weights = single.get(name, for_all[0] if for_all else "world")
    return f"{name} ({'embedded world' if weights == 'world' else weights.rstrip('/').rpartition('/')[2]})"
