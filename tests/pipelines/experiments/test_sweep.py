"""A sweep on the cluster: a trial equals train_dpo.py by hand, resume, failures, what is shared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.material import MODEL, Submit, notes

from infra.base import cli
from infra.base.errors import UserError
from pipelines.engine import ray_cluster
from pipelines.experiments import sweep
from pipelines.experiments.sweep_config import SweepConfig
from pipelines.experiments.sweep_trials import make_trials, read_sweep
from training.settings.config import TrainConfig
from training.settings.presets import PRESETS

COMMON = ["--steps", "3", "--checkpoint-every", "3", "--global-batch", "8", "--micro-batch", "4"]


@pytest.fixture
def file(encoded_store: Path, tmp_path: Path) -> str:
    """Return a sweep's file of two trials of three steps."""
    told = {
        "trials": {"dpo": ["--beta", "500"], "sft": ["--objective", "sft"]},
        "seeds": [1],
        "train": [*COMMON, "--store", str(encoded_store)],
        "generate": ["--limit", "4", "--sampling-steps", "2"],
    }
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(told))
    return str(path)


@pytest.mark.long  # a cluster for the trials; what they run is tested below without one
def test_a_trial_on_a_cluster_is_what_train_dpo_does_by_hand(
    file: str, one_worker: Path, training_flags: list[str], drive: Submit, tmp_path: Path
) -> None:
    output = tmp_path / "swept"
    swept = json.loads(Path(file).read_text()) | {"train": training_flags, "seeds": [0]}
    Path(file).write_text(json.dumps(swept))
    command = ["pipelines/sweep.py", "--file", file, "--output", str(output), "--cpus-per-trial", "0.75"]
    assert "mean of 1 seed" in drive(*command).stdout
    report = json.loads((output / "sweep.json").read_text())
    assert [trial["name"] for trial in report["trials"]] == ["dpo", "sft"]
    assert list(report["sharing"]["store"].values()) == [2]

    trial = report["trials"][0]
    by_hand = [*training_flags, "--workers", "1", "--output", trial["train"]]  # as one_worker was trained
    assert trial["command"].split()[:2] == ["python", "training/train_dpo.py"]
    parsed = [cli.parse(TrainConfig, PRESETS, flags) for flags in (trial["command"].split()[2:], by_hand)]
    assert parsed[0] == parsed[1]
    losses = [[row["loss"] for row in notes(folder)] for folder in (trial["train"], one_worker)]
    assert losses[0] == losses[1]
    name = "result/unet/diffusion_pytorch_model.safetensors"
    assert Path(trial["train"], name).read_bytes() == (one_worker / name).read_bytes()


@pytest.fixture
def in_turn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let trials run in this process, one after the other; yields the names of those that were begun."""
    begun: list[str] = []

    def side_by_side(function: Callable[[Any], Any], arguments: Sequence[Any], *_: float) -> Iterator[tuple[int, Any]]:
        for place, trial in enumerate(arguments):
            begun.append(trial.name)
            try:
                yield place, function(trial)
            except UserError as error:
                yield place, error

    monkeypatch.setattr(ray_cluster, "connect", lambda: None)
    monkeypatch.setattr(ray_cluster, "device_count", lambda: 0)
    monkeypatch.setattr(ray_cluster, "side_by_side", side_by_side)
    return begun


@pytest.mark.slow
def test_a_trial_that_fails_leaves_the_others_and_is_named(
    file: str, in_turn: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, train = tmp_path / "swept", sweep.train_alone

    def fail(config: Any, folder: str) -> None:
        if config.objective.objective == "dpo":
            raise UserError("a loss is not finite")
        train(config, folder)

    monkeypatch.setattr(sweep, "train_alone", fail)
    with pytest.raises(UserError, match=r"^1 of 3 trials failed, the others are finished: dpo, seed 1: a loss is not"):
        sweep.main(SweepConfig(file, str(output)))
    assert in_turn == ["base", "dpo", "sft"]
    assert (output / "sft/seed-1/images/manifest.json").exists()
    assert not (output / "sweep.json").exists()

    monkeypatch.setattr(sweep, "train_alone", train)
    kept = json.loads((output / "sft/seed-1/seconds.json").read_text())
    sweep.main(SweepConfig(file, str(output)))
    found = json.loads((output / "sweep.json").read_text())
    assert found["trials"][1]["seconds"] == kept  # finished before: not done again
    took = found["trials"][0]["seconds"]
    assert took.pop("train") is None  # cut short once: what its last attempt took is not what it takes
    assert all(took[part] > 0 for part in ("draw", "score"))
    for trial in found["trials"]:
        script, *flags = trial["command"].split()[1:]
        assert script == "training/train_dpo.py"
        by_hand = replace(cli.parse(TrainConfig, PRESETS, flags), output=str(tmp_path / trial["name"]))
        train(by_hand, str(MODEL))
        assert [row["loss"] for row in notes(by_hand.output)] == [row["loss"] for row in notes(trial["train"])]

    told = json.loads(Path(file).read_text())
    told["train"][5] = "4"
    Path(file).write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"sft, seed 1: .*other settings \(global_batch was 8, now 4\)"):
        sweep.main(SweepConfig(file, str(output)))


def test_bad_flags_of_any_trial_are_refused_before_one_starts(file: str, in_turn: list[str], tmp_path: Path) -> None:
    told = json.loads(Path(file).read_text())
    told["trials"]["large"] = ["--global-batch", "4096"]
    Path(file).write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"^large, seed 1: .* fewer than one --global-batch of 4096"):
        sweep.main(SweepConfig(file, str(tmp_path / "swept")))
    del told["trials"]["large"]
    for part, flags, sentence in (
        ("generate", ["--prompts", "/nowhere.txt"], "^base, seed 1: .*/nowhere.txt"),
        ("generate", ["--sampling-steps", "0"], "^base, seed 1: --sampling-steps 0: must be at least 1"),
        ("scorers", ["nobody"], "^base, seed 1: .*nobody"),
    ):
        Path(file).write_text(json.dumps(told | {part: flags}))
        with pytest.raises(UserError, match=sentence):
            sweep.main(SweepConfig(file, str(tmp_path / "swept")))
    assert not in_turn


def test_reference_errors_that_are_shared_are_counted(file: str, tmp_path: Path) -> None:
    told = json.loads(Path(file).read_text())
    told["trials"] = {name: ["--reference", "seed-{seed}"] for name in ("a", "b")} | {"c": []}
    told["seeds"] = [0, 1]
    Path(file).write_text(json.dumps(told))
    read = read_sweep(file)
    trials = make_trials(read, str(tmp_path))
    for trial in trials[1:]:
        assert trial.train is not None
        facts = Path(trial.train.output, "result", "facts.json")
        facts.parent.mkdir(parents=True)
        facts.write_text('{"best_step": 3, "config": {}}')
    found = sweep.gather(read, trials, [{}] * len(trials))
    (store,) = found["sharing"]["store"]
    assert found["sharing"]["store"][store] == 6
    assert found["sharing"]["reference"][store] == {"seed-0": 2, "seed-1": 2}
