"""The flags of the paper's report, apart from what writes it."""

from __future__ import annotations

from dataclasses import dataclass

from infra.base.places import PathText


@dataclass(frozen=True)
class PaperReportConfig:
    """Flags of the report."""

    run: PathText = "runs/paper"
    """Folder of make paper; report.json and report.html go there."""
