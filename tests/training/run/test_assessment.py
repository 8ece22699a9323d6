"""What is found at checkpoints does not depend on where a run was killed, and the best checkpoint is the result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.material import HELD_OUT, notes
from support.short_runs import look_twice, short_run
from support.trained_models import Killed

from infra.base.errors import UserError
from infra.world.shapes import all_scenes
from pipelines.latents import store
from training.checkpoints import checkpoint
from training.run import assembly, assessment, loop, preflight
from training.settings.config import TrainConfig


def with_captions(config: TrainConfig, folder: Path) -> TrainConfig:
    """Return settings of a run that draws four captions at its checkpoints."""
    prompts = folder / "prompts.txt"
    prompts.write_text("".join(f"{scene.caption}\n" for scene in HELD_OUT[:4]))
    drawn = replace(config.validation, validation_prompts=str(prompts), sampling_steps=2)
    return replace(config, steps=4, validation=drawn)


@pytest.fixture
def validated(config: TrainConfig, tmp_path: Path) -> TrainConfig:
    return with_captions(config, tmp_path)


@pytest.fixture(scope="module")
def finished(
    small_world: str, encoded_store: Path, held_out_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainConfig:
    """Return the settings of such a run, which is finished."""
    folder = tmp_path_factory.mktemp("finished")
    settings = with_captions(short_run(small_world, encoded_store, held_out_store, folder), folder)
    with pytest.MonkeyPatch.context() as patched:
        look_twice(patched)
        loop.train(settings, assembly.Rank())
    return settings


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", [0, 2])
def test_a_kill_before_an_assessment_neither_skips_nor_doubles_it(
    validated: TrainConfig, finished: TrainConfig, killed_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(trainer: assembly.Trainer, step: int) -> None:
        if step == killed_at:
            raise Killed
        assessment.assess(trainer, step)

    monkeypatch.setattr(loop, "assess", die)
    with pytest.raises(Killed):
        loop.train(validated, assembly.Rank())
    monkeypatch.undo()
    loop.train(validated, assembly.Rank())
    expected, found = (notes(run.output, "assessments.jsonl") for run in (finished, validated))
    assert [row["step"] for row in expected] == [0, 2, 4]
    assert found == expected


@pytest.mark.slow
def test_a_kill_before_the_first_checkpoint_notes_step_0_once(validated: TrainConfig) -> None:
    def die(_: dict[str, object]) -> None:
        raise Killed

    with pytest.raises(Killed):
        loop.train(validated, assembly.Rank(on_step=die))
    loop.train(validated, assembly.Rank())
    assert [row["step"] for row in notes(validated.output, "assessments.jsonl")] == [0, 2, 4]


@pytest.mark.slow
def test_the_checkpoint_with_the_best_median_is_the_result(
    validated: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    medians = iter([0.9, 0.7, 0.6])  # of steps 0, 2, 4; step 0 is the base and no candidate
    monkeypatch.setattr(assessment, "validate", lambda *_: {"validation_median": next(medians)})
    loop.train(validated, assembly.Rank())
    output = Path(validated.output)
    result = load_file(output / "result" / "unet" / "diffusion_pytorch_model.safetensors")
    best = load_file(checkpoint.folder_of(output, 2) / "network.safetensors")
    assert all(result[name].equal(best[name]) for name in best)


@pytest.mark.slow
def test_a_best_checkpoint_that_resume_from_left_behind_is_no_result(
    validated: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    medians = iter([0.0, 0.9, 0.5, 1.0, 0.6])  # of steps 0, 1, 2, 3; and of 3 again
    monkeypatch.setattr(assessment, "validate", lambda *_: {"validation_median": next(medians)})
    every = replace(validated, checkpoint_every=1, keep_checkpoints=2, steps=3)
    loop.train(every, assembly.Rank())
    assert checkpoint.complete_steps(every.output) == [2, 3]  # step 3 was the best, so step 1 went
    checkpoint.rewind(every.output, 2)
    loop.train(every, assembly.Rank())
    facts = json.loads((Path(every.output) / "result" / "facts.json").read_text())
    assert facts["best_step"] == 3  # 0.6: step 1's 0.9 is gone


def test_captions_on_both_sides_are_refused(validated: TrainConfig, encoded_store: Path, tmp_path: Path) -> None:
    preflight.check_config(validated)
    both = replace(validated, data=replace(validated.data, held_out_store=str(encoded_store)))
    with pytest.raises(UserError, match=r"--held-out-store .*: \d+ of its captions are in --store too"):
        preflight.check_config(both)
    known = store.read_manifest(str(encoded_store)).counts.prompts
    prompts = tmp_path / "all.txt"
    prompts.write_text("".join(f"{scene.caption}\n" for scene in all_scenes()))
    leaking = replace(validated, validation=replace(validated.validation, validation_prompts=str(prompts)))
    with pytest.raises(UserError, match=rf"--validation-prompts .*: {known} of its captions are in --store too"):
        preflight.check_config(leaking)


@pytest.mark.slow
def test_fewer_steps_than_taken_are_refused(config: TrainConfig) -> None:
    loop.train(replace(config, steps=4), assembly.Rank())
    with pytest.raises(UserError, match="--steps 2: this run has already taken 4"):
        preflight.check_config(replace(config, steps=2))
