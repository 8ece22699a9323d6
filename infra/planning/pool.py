"""The nodes that a stage of a planned run has."""

from __future__ import annotations

from dataclasses import dataclass

from infra.base.accelerators import Name


@dataclass(frozen=True)
class Pool:
    """The nodes that a stage has."""

    nodes: int
    gpus: int  # of each
    card: Name

    @property
    def accelerators(self) -> int:
        """Return how many accelerators there are."""
        return self.nodes * self.gpus

    def __str__(self) -> str:
        return f"{self.nodes} x {self.gpus} {self.card}" if self.gpus > 1 else f"{self.nodes} {self.card}"
