"""A run that nothing disturbs, in this process: what other runs are held against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from infra.base import cli, engines
from training.run import train_dpo
from training.settings.config import TrainConfig
from training.settings.presets import PRESETS


def train_alone(flags: Sequence[str], output: Path) -> None:
    """Train as the only worker."""
    with engines.asking("local"):
        train_dpo.main(cli.parse(TrainConfig, PRESETS, [*flags, "--workers", "1", "--output", str(output)]))
