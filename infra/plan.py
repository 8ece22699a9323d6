"""Estimate what a whole run takes on machines that fail: hours, cost, lost work and bottlenecks.

All stages are counted, one after the other, on the machines that you give to each. Nothing is started, and no weights
are read.

Example:
    dpo-plan --preset sd15 --mtbf-hours 500 --price l4=0.8 h100=2.5
"""

from __future__ import annotations

from infra.base import cli
from infra.planning.plan_flags import PRESETS, PlanConfig
from training.settings.presets import LINES


def command() -> None:
    """Run from the command line."""
    cli.run("infra.planning.plan:main", PlanConfig, PRESETS, about=__doc__, lines=LINES)


if __name__ == "__main__":
    command()
