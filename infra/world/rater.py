"""The oracle as a human rater: how it labels a pair, and the raw rows that such ratings fill."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.raw.raw_pairs import labelled_pair


@dataclass(frozen=True)
class Rater:
    """How decided a rater is, in units of the oracle's score (0..1)."""

    temperature: float = 0.01  # of the Bradley-Terry labels
    tie_margin: float = 0.0045  # score difference below which the rater calls a tie

    def label(self, score_0: float, score_1: float, rng: np.random.Generator) -> float:
        """Draw label_0 from the scores of the two slots: 1, 0, or 0.5 for a tie.

        One random number is drawn for every pair, ties included.
        """
        chance = rng.random()
        if abs(score_0 - score_1) < self.tie_margin:
            return 0.5
        return float(chance < 1 / (1 + np.exp(-(score_0 - score_1) / self.temperature)))


def rated_pair(number: int, caption: str, shown: list[tuple[str, bytes]], label_0: float, model: str) -> dict[str, Any]:
    """Lay out one pair with Pick-a-Pic's columns about the rating: who, when, and the count for this caption."""
    rated = {
        "created_at": datetime.datetime(2026, 1, 1) + datetime.timedelta(minutes=number),
        "user_id": number % 40,
        "num_example_per_prompt": 1,
    }
    return labelled_pair(number, caption, shown, label_0, model) | rated


def bad_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return six rows made from copies of the first rows, each spoilt in a way that real data shows."""
    spoilt: list[dict[str, Any]] = [
        {"jpg_0": rows[0]["jpg_0"][: len(rows[0]["jpg_0"]) // 2]},
        {"jpg_1": b""},
        {"caption": None},
        {"label_0": float("nan")},
        {"label_0": 2.0},
        {"label_0": 1.0, "label_1": 1.0},
    ]
    made = []
    for index, change in enumerate(spoilt):
        source = rows[index % len(rows)]
        shown = [(source[f"image_{slot}_uid"], source[f"jpg_{slot}"]) for slot in (0, 1)]
        fresh = rated_pair(len(rows) + index, source["caption"], shown, 1.0, source["model_0"])
        made.append(fresh | change)
    return made
