"""Copies, GPUs and cores of a step, by what the cluster has and what was asked for."""

from __future__ import annotations

import pytest

from pipelines.engine.jobs import SMALL_CPUS
from pipelines.engine.shares import Share, feeding_cpus, share


@pytest.mark.parametrize(
    ("devices", "copies", "gpus", "expected"),
    [
        (0, 0, None, Share(1, 0.0)),
        (4, 0, None, Share(4, 1.0)),
        (4, 2, None, Share(2, 1.0)),
        (4, 8, 0.5, Share(8, 0.5)),
        (4, 3, 0.0, Share(3, 0.0)),
        (0, 3, None, Share(3, 0.0)),
        (0, 0, 1.0, Share(1, 1.0)),
    ],
)
def test_copies_follow_the_gpus_unless_asked_otherwise(
    devices: int, copies: int, gpus: float | None, expected: Share
) -> None:
    assert share(devices, copies, gpus) == expected


def test_a_feeding_task_has_a_core_where_gpus_wait_for_it() -> None:
    assert (feeding_cpus(0), feeding_cpus(2), feeding_cpus(2, 0.5)) == (SMALL_CPUS, 1.0, 0.5)
