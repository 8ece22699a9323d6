"""Flags that decide the reference's errors reach the step that computes them, and visits have the pairs and draws."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines.engine.jobs import Job
from training.backbones.schedule_config import ScheduleConfig
from training.reference import encode_reference
from training.reference.reference_config import ReferenceConfig
from training.reference.visit_pairs import VisitImages, VisitPairs


@pytest.mark.parametrize(("visited", "function"), [("pair", VisitPairs), ("image", VisitImages)])
def test_errors_are_computed_as_the_flags_say(
    visited: Any, function: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: list[Job] = []
    engine = SimpleNamespace(device_count=lambda: 0, run=jobs.append)
    monkeypatch.setattr(encode_reference.choose, "current", lambda: engine)
    config = ReferenceConfig(
        seed=7,
        caption_dropout=0.35,
        batch_size=3,
        precision="bfloat16",
        base_precision="fp8",
        schedule=ScheduleConfig(timesteps=(4,)),
        cache="/cache",
        rows_per_file=5,
    )
    plan: Any = SimpleNamespace(
        config=config, model="the model", destination="/store", visited=visited, work=str(tmp_path)
    )
    encode_reference.visit_pairs(plan, encode_reference.wanted_visits(np.array([4, 6]), 1, 3, visited))
    (step,) = jobs[0].steps
    assert step.function is function
    inspect.signature(step.function).bind(**step.arguments)
    assert step.arguments == {
        "model": "the model",
        "schedule": ScheduleConfig(timesteps=(4,)),
        "path": "/store",
        "cache": "/cache",
        "seed": 7,
        "caption_dropout": 0.35,
        "batch_size": 3,
        "precision": "bfloat16",
        "base_precision": "fp8",
    }
    assert (jobs[0].rows, jobs[0].rows_per_block) == (4, 5)


def test_visits_go_through_all_ids_draw_by_draw() -> None:
    # Two ids; draws 1 and 2 are the visits 2 to 5.
    assert encode_reference.wanted_visits(np.array([4, 6]), 1, 3).to_pydict() == {
        "visit": [2, 3, 4, 5],
        "pair_id": [4, 6, 4, 6],
        "draw": [1, 1, 2, 2],
    }
