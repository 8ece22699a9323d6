"""The arena's flags, apart from the arena."""

from __future__ import annotations

from dataclasses import dataclass

from infra.base.places import PathText


@dataclass(frozen=True, kw_only=True)
class ArenaConfig:
    """Flags of the arena."""

    images: tuple[PathText, PathText]
    """Two folders that generate.py wrote with the same captions and seeds: the base's, then the policy's."""
    output: PathText = "runs/arena"
    """Local folder for the votes. Give the same folder again to continue with the votes in it."""
    pairs: int = 100
    """Pairs that each rater judges, the same for all. Every prompt's first images come before any second ones."""
    seed: int = 0
    """Seed that decides which pairs are judged, in which order, and on which side each model stands."""
    host: str = "127.0.0.1"
    """Address to listen at. Other machines cannot reach a loopback address, such as the default."""
    port: int = 0
    """Port to listen at; 0 takes any free one."""
    export: PathText | None = None
    """Instead of serving, write the votes' raw pairs, results.json and report.html into this folder, local or s3://."""
