"""Settings that are refused before anything large is loaded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from infra.errors import UserError
from pipelines import store
from training import preflight
from training.config import PRESETS, TrainConfig
from training.objectives import ObjectiveConfig


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (ObjectiveConfig("dpo", 0.0), "--beta 0: must be above 0"),
        (ObjectiveConfig("dpo", label_smoothing=0.2), "--label-smoothing 0.2: only --objective conservative has it"),
        (ObjectiveConfig("conservative", label_smoothing=0.5), "--label-smoothing 0.5: from 0 to below 0.5"),
        (ObjectiveConfig("sft", mapo_b=0.3), "--mapo-b 0.3: only --objective mapo has it, and this is --objective sft"),
        (ObjectiveConfig("mapo", mapo_k=-1.0), "--mapo-k -1: must be above 0"),
        (ObjectiveConfig("mapo", weighting="min-snr"), "--weighting min-snr: --objective mapo has none"),
        (ObjectiveConfig(snr_gamma=3.0), "--snr-gamma 3: only --weighting min-snr has it"),
        (ObjectiveConfig(weighting="min-snr", snr_gamma=float("inf")), "--snr-gamma inf: must be above 0"),
    ],
)
def test_objectives_that_make_no_sense_are_refused(config: ObjectiveConfig, told: str) -> None:
    with pytest.raises(UserError, match=told):
        preflight.check_objective(config)


def test_objectives_that_make_sense_are_not() -> None:
    for preset in PRESETS.values():
        preflight.check_objective(preset.objective)
        preflight.check_objective(replace(preset.objective, objective="sft"))  # whatever beta a preset brings
    preflight.check_objective(ObjectiveConfig("conservative", label_smoothing=0.0))
    preflight.check_objective(ObjectiveConfig("kto", weighting="min-snr", error="eps", snr_gamma=3.0))


def test_soft_labels_without_probabilities_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    soft = replace(config, objective=replace(config.objective, objective="soft"))
    with pytest.raises(
        UserError, match="--objective soft: --labels human has no probability_0 for 351 of 351 labelled"
    ):
        preflight.check_config(soft)
    path = shutil.copytree(config.data.store, tmp_path / "store")
    table, _ = store.read_labels(str(path), "human")
    place = table.schema.get_field_index("probability_0")
    probable = [0.9 if label == 1.0 else 0.1 for label in table["label_0"].to_pylist()]
    table = table.set_column(place, "probability_0", pa.array(probable, pa.float32()))
    store.write_labels(str(path), "probable", table, {"scorer": "probable"})
    labelled = replace(soft.data, store=str(path), labels="probable")
    assert preflight.check_config(replace(soft, data=labelled)).objective == soft.objective
