"""Compare training runs on one page: what was found, the settings that differ, curves and win rates.

Name the run folders; --reports adds the win rates that report.py or evaluate_model.py found for them. The command
writes comparison.html, which opens in any browser, and comparison.json with every figure.

Example:
    dpo-compare runs/low runs/high --reports runs/report-low runs/report-high
"""

from __future__ import annotations

from infra.base import cli
from pipelines.reports.compare_config import CompareConfig


def command() -> None:
    """Run from the command line."""
    cli.run("pipelines.reports.compare:main", CompareConfig, about=__doc__)


if __name__ == "__main__":
    command()
