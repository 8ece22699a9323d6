"""The flags of the comparison of runs, apart from what writes it."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from infra.base.places import PathText


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Flags of the comparison."""

    runs: tyro.conf.Positional[tuple[PathText, ...]]
    """Run folders of train_dpo.py, two or more."""
    reports: tuple[PathText, ...] = ()
    """Folders of report.py or evaluate_model.py, one for each run in the same order; their win rates are compared."""
    output: PathText = "runs/comparison"
    """Folder for comparison.html and comparison.json, local or s3://."""
