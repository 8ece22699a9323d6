"""The paper's Fig. 6: policies tuned on different label sets, each judged by every scorer."""

from __future__ import annotations

from infra.base import cli
from pipelines.reports.feedback_report import FeedbackReportConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, FeedbackReportConfig)


if __name__ == "__main__":
    command()
