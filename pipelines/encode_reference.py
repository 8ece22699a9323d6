"""Compute the reference model's errors once, ahead of training.

Training then needs no reference model beside the policy, which saves memory and time. Several trainings may share the
result: it depends on the reference, the store, the seed and the draws, not on beta, learning rate or labels.

Example:
    dpo-reference --store runs/store --name base --preset sd15
"""

from __future__ import annotations

from infra.base import cli
from training.reference.reference_config import PRESETS, ReferenceConfig
from training.settings.presets import LINES


def command() -> None:
    """Run from the command line."""
    cli.run(
        "training.reference.encode_reference:main",
        ReferenceConfig,
        PRESETS,
        verify="training.reference.encode_reference:verify",
        about=__doc__,
        runs_jobs=True,
        lines=LINES,
    )


if __name__ == "__main__":
    command()
