"""Which noise levels are trained on: the flags, apart from the networks, so that reading them loads none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScheduleConfig:
    """Which noise levels are trained on."""

    timesteps: tuple[int, ...] | None = None
    """Train at these timesteps only, for models that were distilled to a few (SDXL-Turbo: 249 499 749); by default
    at all."""
    zero_terminal_snr: bool = False
    """Rescale the noise schedule so that the last timestep is pure noise (Lin et al. 2023), as SDXL-Turbo needs."""


EVERY = ScheduleConfig()
