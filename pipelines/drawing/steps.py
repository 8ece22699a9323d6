"""Whether a number of denoising steps begins in the noise that drawing starts from; no pipeline is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infra.base.errors import UserError
from pipelines.latents import schedules


def check_steps(folder: Path, steps: int, flag: str = "--sampling-steps") -> None:
    """Refuse a number of denoising steps whose first one is far below the noise that drawing starts from.

    A scheduler with leading spacing rounds its spacing down. Beyond half of its timesteps the first of 1,000 is then
    501 or 600, and the network is given pure noise at a level where it expects half an image (diffusers 0.42.1).

    Args:
        folder: diffusers folder; its own scheduler is asked, and no weights are read.
        flag: that named the number.

    Raises:
        UserError: naming the flag, the first timestep and a number that would do.
    """
    scheduler, _ = schedules.open_scheduler(folder)
    if scheduler.config.get("shift_terminal") and steps < 2:
        raise UserError(
            f"{flag} {steps}: the scheduler of {folder} stretches its noise levels between the first step and the "
            "last, and draws NaN with a single one; give 2 or more"
        )
    levels = scheduler.config.get("num_train_timesteps", 0)
    if "timestep_spacing" not in scheduler.config or _starts_near_the_top(scheduler, steps, levels):
        return
    fitting = next(
        fewer for fewer in range(min(steps, levels), 0, -1) if _starts_near_the_top(scheduler, fewer, levels)
    )
    raise UserError(
        f"{flag} {steps}: the scheduler of {folder} has {levels} timesteps and would not start at their noisiest; "
        f"give {fitting}, for example"
    )


def _starts_near_the_top(scheduler: Any, steps: int, levels: int) -> bool:
    """Say whether the first of so many steps lies within one spacing, or a tenth of all timesteps, of the last."""
    if steps > levels:
        return False
    try:
        scheduler.set_timesteps(steps)
    except ValueError:  # LCM's takes no more than the 50 that it was distilled with
        return False
    gap = levels - 1 - float(scheduler.timesteps[0])
    return 0 <= gap <= max(levels / steps, levels / 10) + 1
