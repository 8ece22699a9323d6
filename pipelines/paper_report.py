"""The paper's experimental section on the embedded world: `python pipelines/paper_report.py --run runs/paper`."""

from __future__ import annotations

from infra.base import cli
from pipelines.paper.paper_report import PaperReportConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, PaperReportConfig)


if __name__ == "__main__":
    command()
