"""Write the report of a training run: win rates, curves and images side by side, on one page.

It compares the tuned model's images with the base's, which the generator has drawn and the scorers have scored. It
writes report.html, which opens in any browser, and report.json with every figure.

Example:
    dpo-report --base runs/images/base --policy runs/images/dpo --train runs/dpo --store runs/store
"""

from __future__ import annotations

from infra.base import cli
from pipelines.reports.report_config import ReportConfig


def command() -> None:
    """Run from the command line."""
    cli.run("pipelines.reports.report:main", ReportConfig, about=__doc__)


if __name__ == "__main__":
    command()
