"""Compare any model with any other on any set of prompts.

Both draw the same prompts from the same start noise, and every scorer judges both. It writes report.json and
report.html with win rates, their intervals, and images side by side. The same command again goes on where it was
stopped.

Example:
    dpo-evaluate --model runs/dpo/result --base infra/world/model --output runs/evaluation
"""

from __future__ import annotations

from infra.base import cli
from pipelines.drawing.generate_config import LINES
from pipelines.experiments.evaluate_config import PRESETS, EvaluateConfig


def command() -> None:
    """Run from the command line."""
    cli.run(
        "pipelines.experiments.evaluate_model:main", EvaluateConfig, PRESETS, about=__doc__, runs_jobs=True, lines=LINES
    )


if __name__ == "__main__":
    command()
