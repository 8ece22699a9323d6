"""The report's flags, apart from what writes it."""

from __future__ import annotations

from dataclasses import dataclass

from infra.base.places import PathText


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Flags of the report."""

    base: PathText
    """Scored images of the base model."""
    policy: PathText
    """Scored images of the trained model, same prompts and seeds."""
    train: PathText
    """Run folder of the trained model."""
    store: PathText
    """Latent store it was trained on."""
    output: PathText = "runs/report"
    """Folder for report.json and report.html, local or s3://."""
    judge: str = "oracle"
    """Scorer of the headline."""
    control: PathText | None = None
    """Scored images of a control, for example of an SFT model."""
    control_train: PathText | None = None
    """Run folder of the control."""
