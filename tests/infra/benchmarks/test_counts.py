"""The table of counts that comes with the code holds what is counted now."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from infra.base import kept_counts
from infra.benchmarks import counts
from pipelines.latents import planned, stated


@pytest.mark.parametrize("name", [name for name in counts.KNOWN if name != counts.WORLD])
def test_the_settings_of_a_known_model_are_those_of_one(name: str) -> None:
    stated.refuse(planned.SHAPES / name)  # they have no weights, and so need no vocabulary


@pytest.mark.parametrize(
    "names",
    [
        pytest.param((counts.WORLD,), marks=pytest.mark.slow),
        pytest.param(counts.KNOWN, marks=pytest.mark.long),
    ],
)
def test_the_table_is_counted_anew(names: Sequence[str]) -> None:
    table = json.loads(kept_counts.TABLE.read_bytes())
    counted = counts.count(names)
    assert counted
    told = "run infra/benchmarks/counts.py, which writes the table anew"
    assert {key: table.get(key) for key in counted} == counted, told
    if names == counts.KNOWN:
        assert table.keys() == counted.keys(), told
