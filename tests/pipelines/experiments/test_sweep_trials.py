"""A sweep's file: what is refused in it, and the trials that it lists, as the entry points' own settings."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from support.parsed_commands import parsed

from infra.base.errors import UserError
from pipelines.experiments.sweep_trials import BASE, Sweep, make_trials, read_sweep

TWO = {"low": ["--beta", "50"], "high": ["--beta", "5000", "--reference", "seed-{seed}"]}


def sweep(**changes: Any) -> Sweep:
    content: dict[str, Any] = {"trials": TWO, "seeds": [3, 4], "train": ["--steps", "8"], "generate": ["--limit", "5"]}
    return Sweep.model_validate(content | changes)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"trials": {}}, "trials: Dictionary should have at least 1 item"),
        ({"trials": TWO, "seed": 1}, "seed: Extra inputs"),
        ({"trials": TWO, "seeds": []}, "seeds: Tuple should have at least 1 item"),
        ({"trials": TWO, "seeds": [1, 1]}, "seeds: one stands twice"),
        ({"trials": {"../up": []}}, "trial '../up': use letters"),
        ({"trials": {"base": []}}, "trial 'base': use letters"),
        ({"trials": {"a": ["--seed", "7"]}}, "a: --seed is for the sweep to decide"),
        ({"trials": TWO, "train": ["--output=x"]}, "train: --output=x is for the sweep to decide"),
        ({"trials": TWO, "generate": ["--model", "m"]}, "generate: --model is for the sweep to decide"),
        ([], "the whole: Input should be"),
    ],
)
def test_bad_files_are_refused_by_name_and_field(tmp_path: Path, content: Any, sentence: str) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError) as refused:
        read_sweep(str(path))
    assert str(refused.value).startswith(f"--file {path}: {sentence}")


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(UserError, match=r"^--file nowhere.json: no such file; give a sweep's JSON file$"):
        read_sweep("nowhere.json")


def test_every_trial_for_every_seed_after_the_base() -> None:
    trials = make_trials(sweep(), "/runs/s")
    names = [(BASE, 3), ("low", 3), ("high", 3), ("low", 4), ("high", 4)]
    assert [(one.name, one.seed) for one in trials] == names
    assert trials[0].train is None
    assert trials[0].draw.model == "infra/world/model"
    high = trials[4]
    assert high.train is not None
    assert (high.train.objective.beta, high.train.seed, high.train.steps) == (5000.0, 4, 8)
    assert high.train.data.reference == "seed-4"
    assert high.train.output == "/runs/s/high/seed-4/train"
    assert high.draw.model == "/runs/s/high/seed-4/train/result"
    assert {one.draw.limit for one in trials} == {5}
    assert {one.draw.seed for one in trials} == {trials[0].draw.seed}  # the same start noise for all
    assert high.score.images == ("/runs/s/high/seed-4/images",)


def test_a_trials_own_flag_counts_over_the_common_one() -> None:
    trials = make_trials(sweep(train=["--beta", "7"], trials={"own": ["--beta", "50"], "common": []}), "/runs/s")
    assert [one.train.objective.beta for one in trials[1:3] if one.train] == [50.0, 7.0]


def test_the_commands_are_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for trial in make_trials(sweep(), "/runs/s")[1:]:
        assert parsed(shlex.split(trial.commands["command"]), monkeypatch) == trial.train
        assert parsed(shlex.split(trial.commands["draw"]), monkeypatch) == trial.draw


def test_adapters_are_drawn_with_over_their_base() -> None:
    trial = make_trials(sweep(trials={"lora": ["--lora-rank", "4"]}), "/runs/s")[1]
    assert (trial.draw.model, trial.draw.lora) == ("infra/world/model", "/runs/s/lora/seed-3/train/result")


def test_flags_that_the_trainer_does_not_have_name_the_trial(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^trial typo: flags not understood: --steps 8 --betta 1 "):
        make_trials(sweep(trials={"typo": ["--betta", "1"]}), "/runs/s")
    assert "betta" in capsys.readouterr().err


def test_trials_from_several_models_have_no_one_base() -> None:
    both = {"here": [], "there": ["--model", "elsewhere"]}
    with pytest.raises(UserError, match=r"^trials start from 2 models \(elsewhere, infra/world/model\)"):
        make_trials(sweep(trials=both), "/runs/s")


def test_a_preset_gives_a_trial_its_defaults() -> None:
    trial = make_trials(sweep(train=["--preset", "sd15"], trials={"paper": []}), "/runs/s")[1]
    assert trial.train is not None
    assert trial.train.data.global_batch == 2048
    assert trial.train.model == make_trials(sweep(train=["--preset", "sd15"]), "/runs/s")[0].draw.model
