"""Turn raw pairs into a latent store: `ray job submit -- python pipelines/encode_latents.py`."""

from __future__ import annotations

from infra.base import cli
from pipelines.latents.encode_config import PRESETS, EncodeConfig
from pipelines.latents.encode_latents import main, print_plan


def command() -> None:
    """Run from the command line."""
    cli.run(main, EncodeConfig, PRESETS, plan=print_plan)


if __name__ == "__main__":
    command()
