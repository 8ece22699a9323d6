"""The flags of the paper's report, apart from what writes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PaperReportConfig:
    """Flags of the report."""

    run: str = "runs/paper"
    """Folder of make paper; report.json and report.html go there."""
