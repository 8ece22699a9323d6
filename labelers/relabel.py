"""Label the pairs of a latent store again, by scorers in place of people.

Each scorer gives a label set of its own, which dpo-train takes by its name; nothing is encoded again. The same command
again goes on where it was stopped.

Example:
    dpo-relabel --source pairs/ --store runs/store --scorer pickscore --preset published
"""

from __future__ import annotations

from infra.base import cli
from labelers.labels.relabel_config import LINES, PRESETS, RelabelConfig


def command() -> None:
    """Run from the command line."""
    cli.run(
        "labelers.labels.relabel:main",
        RelabelConfig,
        PRESETS,
        verify="labelers.labels.relabel:verify",
        about=__doc__,
        runs_jobs=True,
        lines=LINES,
    )


if __name__ == "__main__":
    command()
