"""The flags of the matrix, apart from what fills it."""

from __future__ import annotations

from dataclasses import dataclass

from infra.base.places import PathText


@dataclass(frozen=True, kw_only=True)
class FeedbackReportConfig:
    """Flags of the matrix."""

    base: PathText
    """Scored images of the base model."""
    policies: tuple[PathText, ...]
    """Scored images of the trained models, same prompts and seeds; a row each, in this order."""
    store: PathText
    """Latent store with the label sets they were trained on."""
    judges: tuple[str, ...] = ("pickscore", "hpsv2", "clip", "aesthetics", "oracle", "fidelity")
    """Scorers, a column each; all folders must be scored by all of them."""
    output: PathText = "runs/feedback"
    """Folder for report.json and report.html, local or s3://."""
