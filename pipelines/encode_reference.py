"""Compute a reference's errors ahead of training: `python pipelines/encode_reference.py --name NAME`."""

from __future__ import annotations

from infra.base import cli
from training.reference.encode_reference import PRESETS, ReferenceConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, ReferenceConfig, PRESETS)


if __name__ == "__main__":
    command()
