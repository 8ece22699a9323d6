"""--source: one command goes from raw pairs to a trained model, with the store that two commands would write."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.material import encode_plainly, rendered_pairs, write_pairs

from infra.base import cli, engines
from infra.base.dry_run import DryRunConfig
from infra.base.errors import UserError
from pipelines.latents import encode_config
from pipelines.latents.store import read_manifest
from training.run import plan, train_dpo
from training.run.encode_source import encoding
from training.settings.config import TrainConfig
from training.settings.presets import PRESETS

pytestmark = pytest.mark.slow


def run_of_source(config: TrainConfig, folder: Path, pairs: int = 16) -> TrainConfig:
    """Return settings of one step of eight pairs on a store that is encoded first."""
    source = write_pairs(folder / "raw", rendered_pairs(pairs, seed=2))
    data = replace(config.data, source=str(source), store=str(folder / "store"), held_out_store=None)
    return replace(config, steps=1, checkpoint_every=1, data=data)


def test_a_source_is_encoded_once_as_the_encoder_does_and_then_trained_on(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of_source(config, tmp_path)
    assert run.data.source is not None
    with engines.asking("local"):
        train_dpo.main(run)
        told = capsys.readouterr().out
        encode_plainly(Path(run.data.source), tmp_path / "other")
        again = replace(run, output=f"{run.output}-2", data=replace(run.data, global_batch=4))
        train_dpo.main(again)
    assert ": 14 pairs, " in told  # two of the sixteen are ties
    assert f"{run.output}/result: the result, " in told
    assert read_manifest(run.data.store).content_hash == read_manifest(str(tmp_path / "other")).content_hash
    assert f"{run.data.store}: already finished, nothing to do" in capsys.readouterr().out


def test_a_finished_run_whose_batch_followed_its_set_needs_the_set_no_more(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of_source(config, tmp_path)
    run = replace(run, data=replace(run.data, global_batch=32, micro_batch=4))
    with engines.asking("local"):
        train_dpo.main(run)
        assert "the set has 14 pairs to train on, so a step takes 12 of them, 4 at once" in capsys.readouterr().out
        Path(run.data.store).rename(tmp_path / "elsewhere")
        train_dpo.main(run)
        assert f"{run.output}: already finished, nothing to do" in capsys.readouterr().out
        other = replace(run, data=replace(run.data, labels="other"))
        with pytest.raises(UserError, match="labels was 'human', now 'other'"):
            train_dpo.main(other)


def test_flags_that_make_no_run_are_refused_before_anything_is_encoded(config: TrainConfig, tmp_path: Path) -> None:
    run = run_of_source(config, tmp_path)
    with pytest.raises(UserError, match="--caption-dropout 2: must be between 0 and 1"):
        train_dpo.main(replace(run, data=replace(run.data, caption_dropout=2)))
    assert not Path(run.data.store).exists()


@pytest.mark.parametrize(
    ("data", "objective", "told"),
    [
        ({"labels": "hpsv2"}, "dpo", "--labels hpsv2: .* has the label set human alone"),
        ({"reference": "base"}, "dpo", "--reference base: .* has no reference errors"),
        ({}, "soft", "--objective soft: .* has people's labels, without probabilities"),
        ({"held_out_store": "/nowhere"}, "dpo", "/nowhere: no latent store here"),
    ],
)
def test_what_a_new_store_cannot_have_is_refused_before_it_is_encoded(
    config: TrainConfig, tmp_path: Path, data: dict[str, Any], objective: Any, told: str
) -> None:
    run = run_of_source(config, tmp_path)
    run = replace(run, data=replace(run.data, **data), objective=replace(run.objective, objective=objective))
    with pytest.raises(UserError, match=told):
        train_dpo.main(run)
    with pytest.raises(UserError, match=told):
        plan.print_plan(run, DryRunConfig(dry_run=True))
    assert not Path(run.data.store).exists()


def test_a_dry_run_counts_the_encoding_and_then_the_training(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of_source(config, tmp_path)
    run = replace(run, data=replace(run.data, hold_out=0.25))
    plan.print_plan(run, DryRunConfig(dry_run=True))
    told = capsys.readouterr().out
    assert told.startswith(f"--source {run.data.source}: first it is encoded into --store {run.data.store}\n")
    encoder, _, trainer = told.partition("then:\n")
    assert "pairs to encode  " in encoder
    assert "14 (fewer where images do not decode)" in encoder
    assert "steps  " in trainer
    assert "about 10 of --labels human" in trainer  # 14, less 3.5, which is rounded to the even 4
    assert not Path(run.data.store).exists()


def test_a_dry_run_of_a_set_smaller_than_the_batch_follows_it_as_the_run_does(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 16 rows 2 are ties, so 14 pairs are trained on: one step an epoch, of all of them."""
    run = run_of_source(config, tmp_path)
    small = replace(run, data=replace(run.data, global_batch=32, micro_batch=16))
    plan.print_plan(small, DryRunConfig(dry_run=True))
    told = capsys.readouterr().out
    assert "--global-batch 32: the set has about 14 pairs to train on, so a step takes 14 of them, 14 at once" in told
    assert re.search(r"epochs +\S+ of 1 steps", told)
    with pytest.raises(UserError, match=": about 14 labelled pairs to train on, fewer than one --global-batch of 32"):
        plan.print_plan(replace(small, workers=16, data=replace(small.data, micro_batch=2)), DryRunConfig(dry_run=True))


def test_the_encoder_has_the_settings_of_the_models_preset() -> None:
    flags = ["--preset", "sdxl-lora", "--source", "pairs", "--store", "/mine"]
    config = cli.parse(TrainConfig, PRESETS, flags)
    wanted = replace(encode_config.PRESETS["sdxl"], source="pairs", store="/mine")
    assert encoding(config) == wanted
