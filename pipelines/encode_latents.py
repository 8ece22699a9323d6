"""Turn pairs of images into a latent store, which training reads.

Every pair is checked, its images are decoded and encoded by the model's VAE, and each caption is encoded once. Rows
that cannot be used are set apart with a reason and counted. The same command again goes on where it was stopped.

Example:
    dpo-encode --source pairs/ --store runs/store --preset sd15
"""

from __future__ import annotations

from infra.base import cli
from pipelines.latents.encode_config import LINES, PRESETS, EncodeConfig


def command() -> None:
    """Run from the command line."""
    cli.run(
        "pipelines.latents.encode_latents:main",
        EncodeConfig,
        PRESETS,
        plan="pipelines.latents.encode_plan:print_plan",
        verify="pipelines.latents.encode_latents:verify",
        about=__doc__,
        runs_jobs=True,
        lines=LINES,
    )


if __name__ == "__main__":
    command()
