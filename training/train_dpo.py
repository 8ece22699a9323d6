"""Train a diffusion model on the preferences in a latent store.

The result is a diffusers folder, or a LoRA file with --lora-rank. The same command again goes on from the last
checkpoint. --dry-run prints what the training would take, without starting it.

Example:
    dpo-train --store runs/store --output runs/dpo --preset sd15
"""

from __future__ import annotations

from infra.base import cli
from training.settings.config import TrainConfig
from training.settings.presets import LINES, PRESETS


def command() -> None:
    """Run from the command line."""
    cli.run(
        "training.run.train_dpo:main",
        TrainConfig,
        PRESETS,
        plan="training.run.plan:print_plan",
        verify="training.run.train_dpo:verify",
        about=__doc__,
        runs_jobs=True,
        lines=LINES,
    )


if __name__ == "__main__":
    command()
