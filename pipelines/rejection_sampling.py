"""Measure how many images the base model must draw to beat one image of the tuned model.

For each caption the tuned model draws one image. The base draws until a scorer prefers one of its images, up to --cap.
The same command again goes on where it was stopped.

Example:
    python pipelines/rejection_sampling.py --model runs/dpo/result --scorer oracle --output runs/rejection
"""

from __future__ import annotations

from infra.base import cli
from pipelines.drawing.generate_config import LINES
from pipelines.experiments.rejection_config import PRESETS, RejectionConfig


def command() -> None:
    """Run from the command line."""
    cli.run(
        "pipelines.experiments.rejection_sampling:main",
        RejectionConfig,
        PRESETS,
        about=__doc__,
        runs_jobs=True,
        lines=LINES,
    )


if __name__ == "__main__":
    command()
