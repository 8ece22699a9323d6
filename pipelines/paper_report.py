"""Report the paper's experiments, repeated in small on the embedded world.

Example:
    python pipelines/paper_report.py --run runs/paper
"""

from __future__ import annotations

from infra.base import cli
from pipelines.paper.paper_config import PaperReportConfig


def command() -> None:
    """Run from the command line."""
    cli.run("pipelines.paper.paper_report:main", PaperReportConfig, about=__doc__)


if __name__ == "__main__":
    command()
