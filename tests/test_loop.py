"""The training loop in one process: exact resume, refusals, what it notes, what it leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import MODEL, Killed, notes

from infra.errors import UserError
from training import checkpoint, loop, objectives, preflight
from training.config import TrainConfig
from training.result import is_finished, result_folder


def test_an_interrupted_run_repeats_the_losses_bit_for_bit(config: TrainConfig, tmp_path: Path) -> None:
    straight = replace(config, output=str(tmp_path / "straight"))
    loop.train(straight, loop.Rank())

    def die(metrics: dict[str, object]) -> None:
        if metrics["step"] == 5:
            raise Killed

    with pytest.raises(Killed):
        loop.train(config, loop.Rank(on_step=die))
    (Path(config.output) / "metrics.jsonl").open("a").write('{"step": 6, "lo')  # a line cut short
    loop.train(config, loop.Rank())
    expected, found = notes(straight.output), notes(config.output)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "stream", "gradient_norm", "accuracy", "learning_rate"):
        assert [row[name] for row in found] == [row[name] for row in expected]
    ends = [torch.nn.utils.parameters_to_vector(_policy(path)) for path in (straight.output, config.output)]
    assert torch.equal(*ends)


def _policy(output: str) -> list[torch.Tensor]:
    return list(checkpoint.load_file(checkpoint.folder_of(Path(output), 6) / "network.safetensors").values())


def test_step_1_is_at_ln_2_and_the_warm_up_is_linear(config: TrainConfig) -> None:
    loop.train(replace(config, steps=4), loop.Rank())
    rows = notes(config.output)
    assert rows[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert rows[0]["accuracy"] == 0.5
    rate = config.optimizer.learning_rate
    assert [row["learning_rate"] for row in rows] == pytest.approx([rate / 3, 2 * rate / 3, rate, rate])
    assert rows[3]["loss"] != rows[0]["loss"]
    assert {row["step"] for row in notes(config.output, "assessments.jsonl")} == {0, 2, 4}


def test_accumulation_gives_the_gradient_of_the_whole_batch(config: TrainConfig) -> None:
    first = replace(config, steps=1, checkpoint_every=1)
    loop.train(first, loop.Rank())
    whole = replace(first, output=config.output + "-whole", data=replace(config.data, micro_batch=8))
    loop.train(whole, loop.Rank())
    split_row, whole_row = notes(first.output)[0], notes(whole.output)[0]
    assert split_row["stream"] == whole_row["stream"]
    assert split_row["gradient_norm"] == pytest.approx(whole_row["gradient_norm"], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_before_the_update_and_names_the_pair(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_loss, calls = objectives.loss, []

    def spoilt(*arguments: object) -> torch.Tensor:
        calls.append(1)
        values = true_loss(*arguments)  # type: ignore[arg-type]
        return values * torch.tensor([1.0, float("nan"), 1.0, 1.0]) if len(calls) == 5 else values

    monkeypatch.setattr(objectives, "loss", spoilt)
    with pytest.raises(UserError, match=r"step 3: the loss of pairs -?\d+ is not finite; nothing was updated"):
        loop.train(config, loop.Rank())
    assert [path.name for path in checkpoint.complete(Path(config.output))] == ["step-0000002"]
    assert len(notes(config.output)) == 2


def test_the_result_opens_in_diffusers_and_says_what_made_it(config: TrainConfig) -> None:
    from diffusers import StableDiffusionPipeline

    loop.train(replace(config, steps=2), loop.Rank())
    folder = result_folder(Path(config.output))
    assert is_finished(Path(config.output), 2)
    assert not is_finished(Path(config.output), 3)
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    trained, base = pipeline.unet.state_dict(), loop.StableDiffusion(MODEL).load_network().state_dict()
    assert any(not torch.equal(trained[name], base[name]) for name in base)
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["train"]["steps"] == 2
    assert facts["implicit_reward"]["draws"] == 10
    assert facts["implicit_reward"]["n"] == 14  # 16 pairs, two of them ties
    assert facts["store_hash"] in (folder / "README.md").read_text()


def test_a_torn_checkpoint_is_not_taken_and_an_altered_one_is_refused(config: TrainConfig) -> None:
    loop.train(replace(config, steps=4), loop.Rank())
    output = Path(config.output)
    (checkpoint.folder_of(output, 4) / checkpoint.COMPLETE).unlink()
    assert checkpoint.complete(output)[-1].name == "step-0000002"
    weights = checkpoint.folder_of(output, 2) / "network.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"step-0000002/network\.safetensors: altered"):
        loop.train(config, loop.Rank())


def test_another_seed_in_the_same_folder_is_refused(config: TrainConfig) -> None:
    loop.train(replace(config, steps=2), loop.Rank())
    with pytest.raises(UserError, match="seed was 0, now 1"):
        loop.train(replace(config, seed=1), loop.Rank())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"global_batch": 8, "micro_batch": 3}, "--global-batch 8: not a multiple"),
        ({"global_batch": 400}, "351 labelled pairs, fewer than"),
        ({"labels": "taste"}, "--labels taste"),
        ({"store": "/nowhere"}, "no latent store"),
    ],
)
def test_impossible_settings_are_refused_before_a_model_loads(
    config: TrainConfig, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        preflight.check_config(replace(config, data=replace(config.data, **changes)))  # type: ignore[arg-type]
