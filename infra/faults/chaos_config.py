"""The flags of the kills, apart from what kills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Victim = Literal["encoder", "driver", "node", "network"]


@dataclass(frozen=True)
class ChaosConfig:
    """Flags of the kills."""

    rounds: int = 10
    """Encodings after the undisturbed one; each victim is struck once in each. With hands, jobs."""
    seed: int = 0
    """Seed of the moments; with hands also of the jobs, touches and files."""
    victims: tuple[Victim | Literal["hands"], ...] = ("encoder", "driver", "node")
    """Victims of each round. The encoder's actor, the driver and the second node's raylet get SIGKILL. With network the
    second node loses its network for 30 s, which needs root. hands, which is given alone, touches a file of a running
    job in each round, as people and systems do: of an encoding, a relabelling, a training or a drawing."""
