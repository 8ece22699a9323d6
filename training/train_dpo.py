"""Align a diffusion model with preferences: `ray job submit -- python training/train_dpo.py`."""

from __future__ import annotations

from infra.base import cli
from training.run.plan import print_plan
from training.run.train_dpo import main
from training.settings.config import TrainConfig
from training.settings.presets import PRESETS


def command() -> None:
    """Run from the command line."""
    cli.run(main, TrainConfig, PRESETS, plan=print_plan)


if __name__ == "__main__":
    command()
