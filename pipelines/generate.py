"""Draw images of prompts with any diffusers pipeline: `python pipelines/generate.py --model ...`."""

from __future__ import annotations

from infra.base import cli
from pipelines.drawing.generate import main
from pipelines.drawing.generate_config import PRESETS, GenerateConfig


def command() -> None:
    """Run from the command line."""
    cli.run(main, GenerateConfig, PRESETS)


if __name__ == "__main__":
    command()
