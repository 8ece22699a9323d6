"""The flags of a sweep, apart from its trials."""

from __future__ import annotations

from dataclasses import dataclass

from infra.base.places import PathText


@dataclass(frozen=True)
class SweepConfig:
    """Flags of the sweep."""

    file: PathText
    """JSON file with trials, seeds, train, generate, scorers and weights; see docs/paper.md."""
    output: PathText = "runs/sweep"
    """Folder for all results; the same folder again goes on from what is there."""
    cpus_per_trial: float = 1.0
    """CPUs that a trial of one worker holds while it runs; where there are GPUs it holds one of them too."""
