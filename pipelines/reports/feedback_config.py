"""The flags of the matrix, apart from what fills it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FeedbackReportConfig:
    """Flags of the matrix."""

    base: str
    """Scored images of the base model."""
    policies: tuple[str, ...]
    """Scored images of the trained models, same prompts and seeds; a row each, in this order."""
    store: str
    """Latent store with the label sets they were trained on."""
    judges: tuple[str, ...] = ("pickscore", "hpsv2", "clip", "aesthetics", "oracle", "fidelity")
    """Scorers, a column each; all folders must be scored by all of them."""
    output: str = "runs/feedback"
    """Folder for report.json and report.html, local or s3://."""
