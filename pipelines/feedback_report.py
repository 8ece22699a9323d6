"""Compare models that were tuned on different scorers' labels, each judged by every scorer.

This is Fig. 6 of the paper: a matrix of win rates over the base model, as report.html and report.json.

Example:
    python pipelines/feedback_report.py --base runs/base --policies runs/human runs/clip --store runs/store
"""

from __future__ import annotations

from infra.base import cli
from pipelines.reports.feedback_config import FeedbackReportConfig


def command() -> None:
    """Run from the command line."""
    cli.run("pipelines.reports.feedback_report:main", FeedbackReportConfig, about=__doc__)


if __name__ == "__main__":
    command()
