"""Judge a run and show it: `python pipelines/report.py ...` writes report.json and a self-contained report.html."""

from __future__ import annotations

from infra.base import cli
from pipelines.reports.report import ReportConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, ReportConfig)


if __name__ == "__main__":
    command()
