"""Settings that are refused before anything large is loaded."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from infra.base.errors import UserError
from pipelines.latents import label_files
from training.method.objective_config import ObjectiveConfig
from training.method.optimizer_config import OptimizerConfig
from training.run import preflight
from training.settings import flags
from training.settings.config import DataConfig, TrainConfig, ValidationConfig
from training.settings.presets import PRESETS


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (ObjectiveConfig(objective="dpo", beta=0.0), "--beta 0: must be above 0"),
        (
            ObjectiveConfig(objective="dpo", label_smoothing=0.2),
            "--label-smoothing 0.2: only --objective conservative has it",
        ),
        (ObjectiveConfig(objective="conservative", label_smoothing=0.5), "--label-smoothing 0.5: from 0 to below 0.5"),
        (ObjectiveConfig(beta="auto", beta_target=0.5), "--beta-target 0.5: must be between 0 and 0.5, which is"),
        (ObjectiveConfig(beta_target=0.3), "--beta-target 0.3: only --beta auto has it, and this is --beta 5000"),
        (ObjectiveConfig(beta="auto", beta_most=0.0), "--beta-most 0: must be above 0"),
        (
            ObjectiveConfig(objective="kto", beta="auto"),
            "--beta auto: only dpo, conservative, soft and dmpo can have it, and this is --objective kto",
        ),
        (ObjectiveConfig(safeguard=1.5), "--safeguard 1.5: must be from 0 to 1"),
        (ObjectiveConfig(objective="kto", safeguard=0.5), "--safeguard 0.5: only .* can have one, .* --objective kto"),
        (
            ObjectiveConfig(objective="sft", mapo_b=0.3),
            "--mapo-b 0.3: only --objective mapo has it, and this is --objective sft",
        ),
        (
            ObjectiveConfig(dmpo_alpha=0.1),
            "--dmpo-alpha 0.1: only --objective dmpo has it, and this is --objective dpo",
        ),
        (ObjectiveConfig(objective="dmpo", dmpo_alpha=0.5), "--dmpo-alpha 0.5: must be between 0 and 0.5"),
        (ObjectiveConfig(sft_weight=-1.0), "--sft-weight -1: must be 0 or more"),
        (ObjectiveConfig(objective="sft", sft_weight=1.0), "--sft-weight 1: --objective sft has the winner's error in"),
        (ObjectiveConfig(objective="mapo", mapo_k=-1.0), "--mapo-k -1: must be above 0"),
        (ObjectiveConfig(objective="mapo", weighting="min-snr"), "--weighting min-snr: --objective mapo has none"),
        (ObjectiveConfig(snr_gamma=3.0), "--snr-gamma 3: only --weighting min-snr has it"),
        (ObjectiveConfig(weighting="min-snr", snr_gamma=float("inf")), "--snr-gamma inf: must be above 0"),
    ],
)
def test_objectives_that_make_no_sense_are_refused(config: ObjectiveConfig, told: str) -> None:
    with pytest.raises(UserError, match=told):
        flags.check_objective(config)


def test_objectives_that_make_sense_are_not() -> None:
    for preset in PRESETS.values():
        flags.check_objective(preset.objective)
        flags.check_objective(replace(preset.objective, objective="sft"))  # whatever beta a preset brings
    flags.check_objective(ObjectiveConfig(objective="conservative", label_smoothing=0.0))
    flags.check_objective(ObjectiveConfig(objective="kto", weighting="min-snr", error="eps", snr_gamma=3.0))


def test_soft_labels_without_probabilities_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    soft = replace(config, objective=replace(config.objective, objective="soft"))
    with pytest.raises(
        UserError, match="--objective soft: --labels human has no probability_0 from 0 to 1 for 351 of 351 labelled"
    ):
        preflight.check_config(soft)
    path = shutil.copytree(config.data.store, tmp_path / "store")
    table, _ = label_files.read_labels(str(path), "human")
    place = table.schema.get_field_index("probability_0")
    probable = [0.9 if label == 1.0 else 0.1 for label in table["label_0"].to_pylist()]
    table = table.set_column(place, "probability_0", pa.array(probable, pa.float32()))
    label_files.write_labels(str(path), "probable", table, {"scorer": "probable"})
    labelled = replace(soft.data, store=str(path), labels="probable")
    assert preflight.check_config(replace(soft, data=labelled)).objective == soft.objective


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"steps": 0}, "--steps 0: must be at least 1"),
        ({"checkpoint_every": 0}, "--checkpoint-every 0: must be at least 1"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints 0: must be at least 1"),
        ({"data": DataConfig(micro_batch=0)}, "--micro-batch 0: must be at least 1"),
        ({"data": DataConfig(caption_dropout=2.0)}, "--caption-dropout 2.0: must be between 0 and 1"),
        ({"validation": ValidationConfig(held_out_draws=0)}, "--held-out-draws 0: must be at least 1"),
        ({"optimizer": OptimizerConfig(optimizer="adafactor", adam_beta2=0.9)}, "--adam-beta2 0.9: only AdamW has it"),
    ],
)
def test_numbers_that_make_no_run_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        flags.check_flags(replace(TrainConfig(), **changes))


def test_a_held_out_store_that_is_not_there_is_refused_in_one_sentence(config: TrainConfig) -> None:
    with pytest.raises(UserError, match="/nowhere: no latent store here"):
        preflight.check_config(replace(config, data=replace(config.data, held_out_store="/nowhere")))


def test_validation_captions_that_the_scorer_cannot_judge_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat in a hat\n")
    judged = replace(config.validation, validation_prompts=str(prompts))
    with pytest.raises(UserError, match="a cat in a hat"):
        preflight.check_config(replace(config, validation=judged))


def test_a_reference_that_is_not_there_is_named_by_its_own_flag(config: TrainConfig) -> None:
    with pytest.raises(UserError, match=r"--reference-model /nowhere: there is no /nowhere, and a name on the Hub"):
        preflight.check_config(replace(config, reference_model="/nowhere"))
