"""The training loop in one process: exact resume, refusals, what it notes, what it leaves behind."""

from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.material import MODEL, notes
from support.trained_models import moved_model, train_until_killed

from infra.base import (
    logs,
    models,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from labelers.scoring.implicit_folders import trained_against
from training.backbones.diffusion import StableDiffusion
from training.checkpoints import checkpoint
from training.checkpoints.run_folder import is_finished
from training.method import objectives
from training.method.batch import Batch
from training.run import assembly, keeping, loop, preflight
from training.run.result import result_folder
from training.settings.config import TrainConfig

from diffusers import DDPMScheduler, UNet2DConditionModel  # isort: skip


@pytest.mark.slow
def test_an_interrupted_run_repeats_the_losses_bit_for_bit(config: TrainConfig, undisturbed: TrainConfig) -> None:
    train_until_killed(config, 5)
    (Path(config.output) / "metrics.jsonl").open("a").write('{"step": 6, "lo')  # a line cut short
    loop.train(config, assembly.Rank())
    expected, found = notes(undisturbed.output), notes(config.output)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "stream", "gradient_norm", "accuracy", "learning_rate"):
        assert [row[name] for row in found] == [row[name] for row in expected]
    ends = [torch.nn.utils.parameters_to_vector(_policy(path)) for path in (undisturbed.output, config.output)]
    assert torch.equal(*ends)


def _policy(output: str) -> list[torch.Tensor]:
    return list(load_file(checkpoint.folder_of(Path(output), 6) / "network.safetensors").values())


@pytest.mark.slow
def test_a_node_that_is_to_go_leaves_a_checkpoint_once_and_the_run_goes_on(
    config: TrainConfig, undisturbed: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, saved = iter([(), (), ("a",), ("a",), ("a", "b"), ("a", "b")]), list[int]()
    keep = keeping.save

    def save(trainer: assembly.Trainer, step: int) -> None:
        saved.append(step)
        keep(trainer, step)

    monkeypatch.setattr(keeping, "save", save)
    loop.train(config, assembly.Rank(leaving=lambda: next(told)))
    assert saved == [2, 3, 4, 5, 6]  # 2, 4 and 6 are due; 3 and 5 are the steps after which a node was named first
    assert [row["loss"] for row in notes(config.output)] == [row["loss"] for row in notes(undisturbed.output)]
    assert is_finished(config.output, 6)


def test_step_1_is_at_ln_2_and_the_warm_up_is_linear(undisturbed: TrainConfig) -> None:
    rows = notes(undisturbed.output)
    assert rows[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert rows[0]["accuracy"] == 0.5
    rate = undisturbed.optimizer.learning_rate
    assert [row["learning_rate"] for row in rows] == pytest.approx([rate / 3, 2 * rate / 3, rate, rate, rate, rate])
    assert rows[3]["loss"] != rows[0]["loss"]
    assert {row["step"] for row in notes(undisturbed.output, "assessments.jsonl")} == {0, 2, 4, 6}


def hand_errors(batch: Batch, folder: str) -> torch.Tensor:
    """Work the errors [2, B] of a batch out on diffusers' own classes; the embedded world's model predicts noise."""
    alphas = DDPMScheduler.from_pretrained(MODEL, subfolder="scheduler").alphas_cumprod[batch.timesteps]
    alpha, sigma = (root.sqrt().view(-1, 1, 1, 1) for root in (alphas, 1 - alphas))
    network = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").eval()
    noisy = [alpha * latents + sigma * batch.noise for latents in batch.latents]
    told = [network(x, batch.timesteps, batch.conditioning["text_encoder"]).sample for x in noisy]
    return torch.stack([((one - batch.noise) ** 2).mean((1, 2, 3)) for one in told])


def hand_losses(batch: Batch, policy: str, reference: str, beta: float) -> torch.Tensor:
    """Work Eq. 14 out for a batch."""
    errors = [hand_errors(batch, folder) for folder in (policy, reference)]
    gaps = [winner - loser for winner, loser in errors]
    return -torch.log(torch.sigmoid(-beta / 2 * (gaps[0] - gaps[1])))


@pytest.mark.slow
def test_another_reference_gives_the_loss_worked_out_by_hand(config: TrainConfig, tmp_path: Path) -> None:
    other = moved_model(tmp_path / "other", 2e-3, config.model)
    config = replace(config, steps=1, checkpoint_every=1, reference_model=other)
    trainer = assembly.build(preflight.check_config(config), assembly.Rank())
    with torch.no_grad():
        losses = [hand_losses(b, config.model, other, config.objective.known_beta) for b in loop.step_share(trainer, 0)]
    loop.train(config, assembly.Rank())
    loss = notes(config.output)[0]["loss"]
    assert loss == pytest.approx(torch.cat(losses).mean().item(), abs=1e-4)
    assert abs(loss - 0.693147) > 1e-3
    facts = json.loads((result_folder(Path(config.output)) / "facts.json").read_text())
    assert facts["reference"] == other
    assert f"| reference | {other} |" in (result_folder(Path(config.output)) / "README.md").read_text()
    assert trained_against(facts["config"]) == models.Model(other)


@pytest.mark.slow
def test_a_reference_equal_to_the_start_changes_nothing(
    config: TrainConfig, undisturbed: TrainConfig, tmp_path: Path
) -> None:
    named = replace(config, steps=2, reference_model=moved_model(tmp_path / "same", 0, config.model))
    loop.train(preflight.check_config(named), assembly.Rank())
    for name in ("loss", "stream", "gradient_norm"):
        assert [row[name] for row in notes(named.output)] == [row[name] for row in notes(undisturbed.output)[:2]]


@pytest.mark.slow
def test_a_resumed_run_keeps_its_reference(config: TrainConfig, tmp_path: Path) -> None:
    other = moved_model(tmp_path / "other", 2e-3, config.model)
    straight = replace(config, steps=4, output=str(tmp_path / "straight"), reference_model=other)
    loop.train(straight, assembly.Rank())
    loop.train(replace(straight, steps=2, output=config.output), assembly.Rank())
    loop.train(replace(straight, output=config.output), assembly.Rank())
    assert [row["loss"] for row in notes(config.output)] == [row["loss"] for row in notes(straight.output)]


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("vae/config.json", {"scaling_factor": 0.5}, "its vae is not that of --model"),
        ("scheduler/scheduler_config.json", {"beta_end": 0.5}, "its noise schedule is not that of --model"),
        ("unet/config.json", {"norm_num_groups": 8}, "its network differs from --model .* in norm_num_groups"),
    ],
)
def test_a_reference_of_another_kind_is_refused(
    config: TrainConfig, tmp_path: Path, file: str, changes: dict[str, object], told: str
) -> None:
    folder = shutil.copytree(config.model, tmp_path / "other")
    change_json(folder / file, **changes)
    with pytest.raises(UserError, match=f"--reference-model {folder}: {told}"):
        preflight.check_config(replace(config, reference_model=str(folder)))


def test_a_default_left_out_of_a_network_s_file_is_no_difference(config: TrainConfig, tmp_path: Path) -> None:
    folder = shutil.copytree(config.model, tmp_path / "other")
    path = folder / "unet" / "config.json"
    known = json.loads(path.read_text())
    assert known.pop("time_embedding_type") == "positional"  # older files have no such line
    path.write_text(json.dumps(known))
    assert preflight.check_config(replace(config, reference_model=str(folder))).reference_model == str(folder)
    with pytest.raises(UserError, match="--reference-revision main: of which --reference-model"):
        preflight.check_config(replace(config, reference_revision="main"))


def test_accumulation_gives_the_gradient_of_the_whole_batch(config: TrainConfig, undisturbed: TrainConfig) -> None:
    data = replace(config.data, micro_batch=8, held_out_store=None)
    whole = replace(config, steps=1, checkpoint_every=1, data=data)
    loop.train(whole, assembly.Rank())
    split_row, whole_row = notes(undisturbed.output)[0], notes(whole.output)[0]
    assert split_row["stream"] == whole_row["stream"]
    assert split_row["gradient_norm"] == pytest.approx(whole_row["gradient_norm"], rel=1e-4)


@pytest.mark.slow
def test_ktos_baseline_is_the_global_batchs_at_any_micro_batch(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_loss, baselines = objectives.loss, []

    def spied(*arguments: object) -> torch.Tensor:
        baselines.append(float(arguments[4]))  # type: ignore[arg-type]
        return true_loss(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(objectives, "loss", spied)
    other = moved_model(tmp_path / "other", 2e-2, config.model)  # a worse reference, so that rewards are positive
    config = replace(config, steps=1, checkpoint_every=1, reference_model=other)
    config = replace(config, objective=replace(config.objective, objective="kto"))
    rows, beta = [], config.objective.known_beta
    for micro in (4, 8, 2):
        output, data = f"{config.output}-{micro}", replace(config.data, micro_batch=micro)
        loop.train(replace(config, output=output, data=data), assembly.Rank())
        rows.append(notes(output)[0])
    assert baselines[0] == baselines[1]  # two micro-batches of four
    assert len(set(baselines[3:])) == 1  # four of two
    at_once = replace(config, data=replace(config.data, micro_batch=8))
    whole = loop.step_share(assembly.build(at_once, assembly.Rank()), 0)
    with torch.no_grad():
        policy, reference = (hand_errors(whole[0], folder) for folder in (config.model, other))
    rewards = -beta / 2 * (policy - reference)
    z = rewards.mean().item()
    assert z > 0.1
    assert baselines == pytest.approx([z] * 7, rel=1e-3)
    hand = 1 - torch.sigmoid(torch.stack([rewards[0] - z, z - rewards[1]]))
    assert [row["loss"] for row in rows] == pytest.approx([hand.mean().item()] * 3, abs=1e-4)
    assert [row["gradient_norm"] for row in rows] == pytest.approx([rows[0]["gradient_norm"]] * 3, rel=1e-3)


@pytest.mark.chaos
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
        loop.train(config, assembly.Rank())
    assert [path.name for path in checkpoint.complete(Path(config.output))] == ["step-0000002"]
    assert len(notes(config.output)) == 2


@pytest.mark.chaos
def test_a_base_that_predicts_nothing_finite_is_told_and_not_its_pairs(config: TrainConfig, tmp_path: Path) -> None:
    broken = Path(moved_model(tmp_path / "broken", float("nan"), config.model))
    with pytest.raises(UserError, match=r"step 1: --model's or the reference's own prediction is not finite, whatever"):
        loop.train(replace(config, model=str(broken)), assembly.Rank())
    with pytest.raises(UserError, match=r"step 1: --model's or the reference's own prediction is not finite, whatever"):
        loop.train(replace(config, reference_model=str(broken), output=str(tmp_path / "run")), assembly.Rank())


@pytest.mark.slow
def test_the_result_opens_in_diffusers_and_says_what_made_it(undisturbed: TrainConfig) -> None:
    from diffusers import StableDiffusionPipeline

    folder = result_folder(Path(undisturbed.output))
    assert is_finished(Path(undisturbed.output), 6)
    assert not is_finished(Path(undisturbed.output), 7)
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    trained, base = pipeline.unet.state_dict(), StableDiffusion(Path(undisturbed.model)).load_network().state_dict()
    assert any(not torch.equal(trained[name], base[name]) for name in base)
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["train"]["steps"] == 6
    assert facts["implicit_reward"]["draws"] == 2  # ten outside the tests: tests/conftest.py
    assert facts["implicit_reward"]["n"] == 14  # 16 pairs, two of them ties
    assert facts["store_hash"] in (folder / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.chaos
def test_a_torn_checkpoint_is_not_taken_and_an_altered_one_is_refused(config: TrainConfig) -> None:
    loop.train(replace(config, steps=4), assembly.Rank())
    output = Path(config.output)
    (checkpoint.folder_of(output, 4) / checkpoint.COMPLETE).unlink()
    assert checkpoint.complete(output)[-1].name == "step-0000002"
    weights = checkpoint.folder_of(output, 2) / "network.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"step-0000002/network\.safetensors: altered"):
        loop.train(config, assembly.Rank())


@pytest.mark.slow
def test_another_seed_in_the_same_folder_is_refused(config: TrainConfig, undisturbed: TrainConfig) -> None:
    shutil.copytree(undisturbed.output, config.output)
    with pytest.raises(UserError, match="seed was 0, now 1"):
        loop.train(replace(config, steps=8, seed=1), assembly.Rank())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"global_batch": 8, "micro_batch": 3}, "--global-batch 8: not a multiple"),
        ({"global_batch": 400}, "351 labelled pairs to train on, fewer than"),
        ({"labels": "taste"}, "--labels taste"),
        ({"store": "/nowhere"}, "no latent store"),
    ],
)
def test_impossible_settings_are_refused_before_a_model_loads(
    config: TrainConfig, changes: dict[str, object], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        preflight.check_config(replace(config, data=replace(config.data, **changes)))  # type: ignore[arg-type]


@pytest.mark.slow
def test_sample_prompts_are_drawn_without_a_judge_and_change_no_loss(
    config: TrainConfig, undisturbed: TrainConfig, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("a big red circle on a teal background\n" * 2)
    looking = replace(config.validation, sample_prompts=str(tmp_path / "prompts.txt"), sample_every=4, sampling_steps=2)
    seen: list[str] = []
    rank = assembly.Rank(on_more_to_see=lambda _config, folder, pairs: seen.append(f"{folder.name} {pairs}"))
    loop.train(replace(config, validation=looking), rank)
    names = sorted(path.name for path in (Path(config.output) / "samples").iterdir())
    assert names == ["sample-0000000.png", "sample-0000004.png", "sample-0000006.png"]
    assert [row["loss"] for row in notes(config.output)] == [row["loss"] for row in notes(undisturbed.output)]
    assert seen
    assert len(set(seen)) == 1


def test_a_page_that_cannot_be_written_does_not_end_the_training(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    lone = replace(config, steps=2, data=replace(config.data, held_out_store=None))
    with logs.at_level(verbose=False, quiet=False):
        loop.train(lone, assembly.Rank(on_more_to_see=broken))
    assert "index.html: could not be written (OSError: [Errno 28] No space left" in capsys.readouterr().err
    assert is_finished(config.output, 2)
