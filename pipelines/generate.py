"""Draw images of captions with a diffusion model.

The images are written as Parquet files with their captions and seeds. The same caption, seed and settings give the same
start noise for every model, so two models can be compared image by image.

Example:
    dpo-generate --model runs/dpo/result --prompts captions.txt --output runs/images
"""

from __future__ import annotations

from infra.base import cli
from pipelines.drawing.generate_config import LINES, PRESETS, GenerateConfig


def command() -> None:
    """Run from the command line."""
    cli.run(
        "pipelines.drawing.generate:main",
        GenerateConfig,
        PRESETS,
        verify="pipelines.drawing.generate:verify",
        about=__doc__,
        runs_jobs=True,
        lines=LINES,
    )


if __name__ == "__main__":
    command()
