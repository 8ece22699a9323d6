"""Do cached reference errors have the draws that a run visits? No library of networks is loaded for that."""

from __future__ import annotations

from collections.abc import Sequence

from infra.base import files
from infra.base.errors import UserError
from training.method.order import steps_an_epoch
from training.reference import reference_errors
from training.settings.config import TrainConfig


def check_draws(config: TrainConfig, decided: Sequence[int]) -> None:
    """Refuse cached errors that are absent, altered, not needed, or of too few draws.

    Args:
        decided: pairs that the label set decides, in each bucket.

    Raises:
        UserError: in one sentence.
    """
    data = config.data
    name = data.reference
    if name is None:
        return
    if not config.objective.needs_reference:
        raise UserError(f"--reference {name}: --objective {config.objective.objective} needs no reference")
    path = files.resolve(data.store)
    manifest = reference_errors.read_manifest(path, name)
    reference_errors.verify(path, name, manifest)
    steps_a_draw = steps_an_epoch(decided, data.global_batch, data.micro_batch)
    needed = draws_needed(config.steps, steps_a_draw)
    if needed > manifest.draws:
        raise UserError(
            f"--reference {name}: {config.steps} steps visit the {sum(decided)} pairs {needed} times, and it has "
            f"{manifest.draws} draws, enough for --steps {manifest.draws * steps_a_draw}; run encode_reference.py with "
            f"--draws {needed}"
        )


def draws_needed(steps: int, steps_a_draw: int) -> int:
    """Count the epochs that steps take part in: the number of the last step's epoch, counted from 0, plus one."""
    return (steps - 1) // steps_a_draw + 1
