"""Which experiment trackers a run's notes go to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Name = Literal["tensorboard", "wandb", "mlflow", "trackio"]


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where the curves of a run go."""

    report_to: tuple[Name, ...] = ("tensorboard",)
    """Trackers that curves go to. TensorBoard's files are always in the run folder; wandb, mlflow and trackio need
    their client installed, and take server, project and login from their own environment variables."""
