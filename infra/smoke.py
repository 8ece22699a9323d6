"""Check a running cluster: encode, relabel, train two steps, draw and score, on tiny inputs.

The inputs are installed with the project. What is finished is not done again.

Example:
    python infra/smoke.py --address http://HOST:8265 --folder s3://bucket/smoke
"""

from __future__ import annotations

from infra.base import cli
from infra.local.smoke import SmokeConfig


def command() -> None:
    """Run from the command line."""
    cli.run("infra.local.smoke:main", SmokeConfig, about=__doc__)


if __name__ == "__main__":
    command()
