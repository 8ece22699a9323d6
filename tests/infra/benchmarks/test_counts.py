"""The table of counts that comes with the code holds what is counted now."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from infra.base import kept_counts
from infra.base.dry_run import DryRunConfig
from infra.benchmarks import counts
from pipelines.latents import encode_config, encode_plan, kinds, planned, stated
from pipelines.latents.models_known import MODELS
from training.run import plan
from training.settings.presets import PRESETS


@pytest.mark.parametrize("name", [name for name in counts.KNOWN if name != counts.WORLD])
def test_the_settings_of_a_known_model_are_those_of_one(name: str) -> None:
    stated.refuse(planned.SHAPES / name)  # they have no weights, and so need no vocabulary


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_plan_of_a_preset_is_counted_already(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kept_counts, "_place", lambda _: pytest.fail("the table lacks an answer"))
    plan.print_plan(PRESETS[name], DryRunConfig(accelerator="h100"))
    told = capsys.readouterr()
    assert f"--model {PRESETS[name].model}: is out of reach; its settings in" in told.err
    assert "TFLOP of training" in told.out


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_encoding_by_a_preset_is_counted_already(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_counts, "_place", lambda _: pytest.fail("the table lacks an answer"))
    config = encode_config.PRESETS[name]
    folder = planned.SHAPES / name
    shapes = planned.shapes_of(folder, config.resolution, config.max_tokens)
    tokens = kinds.text_tokens(folder, config.max_tokens)
    assert shapes.resolution == MODELS[name].resolution
    assert encode_plan.counted_networks(folder, shapes, tokens, config).image > 0


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
