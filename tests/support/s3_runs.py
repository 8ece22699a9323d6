"""Runs whose folder is on S3: what they noted, and their files."""

from __future__ import annotations

from infra.base import files
from training.checkpoints.run_folder import RESULT

EXACT = ("step", "loss", "stream", "gradient_norm", "accuracy", "learning_rate")


def losses(rows: list[dict[str, object]]) -> list[list[object]]:
    return [[row[name] for name in EXACT] for row in rows]


def contents(folder: str) -> dict[str, bytes]:
    """Read the files below a folder by their names from there."""
    return {path.split(f"/{RESULT}/")[1]: files.read_bytes(path) for path in files.list_files(folder)}
