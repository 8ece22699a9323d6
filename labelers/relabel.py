"""Label the pairs of a latent store by scorers: `python labelers/relabel.py --scorer pickscore`."""

from __future__ import annotations

from infra.base import cli
from labelers.labels.relabel import PRESETS, RelabelConfig, main


def command() -> None:
    """Run from the command line."""
    cli.run(main, RelabelConfig, PRESETS)


if __name__ == "__main__":
    command()
