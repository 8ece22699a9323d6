"""The report's flags, apart from what writes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Flags of the report."""

    base: str
    """Scored images of the base model."""
    policy: str
    """Scored images of the trained model, same prompts and seeds."""
    train: str
    """Run folder of the trained model."""
    store: str
    """Latent store it was trained on."""
    output: str = "runs/report"
    """Folder for report.json and report.html, local or s3://."""
    judge: str = "oracle"
    """Scorer of the headline."""
    control: str | None = None
    """Scored images of a control, for example of an SFT model."""
    control_train: str | None = None
    """Run folder of the control."""
