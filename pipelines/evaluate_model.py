"""Any model against any base on any prompts: `python pipelines/evaluate_model.py --model M --base B --prompts SET`."""

from __future__ import annotations

from infra.base import cli
from pipelines.experiments.evaluate_model import PRESETS, EvaluateConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, EvaluateConfig, PRESETS)


if __name__ == "__main__":
    command()
