"""Tune the demo's model on each scorer's labels, and let every scorer judge each result.

This is Fig. 6 of the paper in small. What is finished is not done again. `make feedback` starts it.

Example:
    python infra/feedback.py
"""

from __future__ import annotations

from infra.base import cli
from infra.local.feedback import FeedbackConfig


def command() -> None:
    """Run from the command line."""
    cli.run("infra.local.feedback:main", FeedbackConfig, about=__doc__)


if __name__ == "__main__":
    command()
