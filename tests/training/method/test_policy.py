"""Adapters and averages: what is trained, the reference that is the policy without its adapters, exact resume."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from support.batches import random_batch
from support.material import MODEL, notes
from support.trained_models import Killed, lora_result, moved_model, train_until_killed
from torch.nn.parallel import DistributedDataParallel

from infra.base import (
    counting,
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from training.backbones.base import DiffusersNetwork
from training.backbones.diffusion import StableDiffusion
from training.checkpoints import checkpoint
from training.method import forward
from training.method.policy import (
    AdaptersOff,
    Average,
    adapters_off,
    add_adapters,
    load_adapters,
    lora_targets,
    make_policy,
    trained,
)
from training.method.policy_config import PolicyConfig
from training.run import assembly, loop, preflight
from training.run.result import result_folder, write_adapters
from training.settings.config import TrainConfig
from training.settings.flags import check_flags

from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, StableDiffusionPipeline  # isort: skip

LORA = PolicyConfig(lora_rank=4)


def test_adapters_start_as_nothing_and_are_all_that_is_trained() -> None:
    backbone, state = StableDiffusion(MODEL), torch.get_rng_state()
    policy, base = make_policy(LORA, backbone, seed=0), backbone.load_network()
    assert torch.equal(torch.get_rng_state(), state)
    weights = trained(policy)
    assert all("lora_" in name and weight.dtype == torch.float32 for name, weight in weights.items())
    assert {w.shape[0] for name, w in weights.items() if "lora_A" in name} == {4}
    assert len(weights) == 2 * sum(isinstance(m, torch.nn.Linear) and ".to_" in n for n, m in base.named_modules())
    batch = random_batch()
    found = [forward.pair_errors(backbone, network, batch, torch.float32) for network in (policy, base)]
    assert torch.equal(*found)
    same, other = (trained(make_policy(LORA, backbone, seed)) for seed in (0, 1))
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert any(not torch.equal(weights[name], other[name]) for name in weights)
    assert len(trained(make_policy(PolicyConfig(), backbone, 0))) == len(list(base.parameters()))


@pytest.mark.slow
def test_the_policy_without_its_adapters_has_the_errors_of_a_separate_base(tmp_path: Path) -> None:
    _, policy = lora_result(tmp_path)
    backbone, batch = StableDiffusion(MODEL), random_batch()
    for autocast in (torch.float32, torch.bfloat16):
        apart = forward.NetworkReference(backbone, backbone.load_network(), autocast).errors(batch)
        assert torch.equal(AdaptersOff(backbone, policy, autocast).errors(batch), apart)
        own = forward.pair_errors(backbone, policy, batch, autocast)
        assert own.requires_grad
        assert not torch.allclose(own, apart)


@pytest.mark.slow
def test_adapters_are_on_again_after_an_error() -> None:
    policy = make_policy(LORA, StableDiffusion(MODEL), 0)
    before = list(trained(policy))
    with adapters_off(policy):
        assert not trained(policy)
    with pytest.raises(Killed), adapters_off(policy):
        raise Killed
    assert list(trained(policy)) == before
    batch, start = random_batch(), make_policy(LORA, StableDiffusion(MODEL), 0)
    for network in (policy, start):
        for name, weight in trained(network).items():
            weight.data.fill_(0.1 if "lora_B" in name else 0.2)
    found = [forward.pair_errors(StableDiffusion(MODEL), n, batch, torch.float32) for n in (policy, start)]
    assert torch.equal(*found)  # with adapters that are far from nothing


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_gradients_of_a_wrapped_policy_do_not_feel_the_reference_s_pass(tmp_path: Path) -> None:
    _, policy = lora_result(tmp_path)
    backbone, batch, found = StableDiffusion(MODEL), random_batch(), []
    wrapped = DistributedDataParallel(policy)
    for looked in (False, True):
        errors = forward.pair_errors(backbone, wrapped, batch, torch.float32)
        if looked:
            AdaptersOff(backbone, policy, torch.float32).errors(batch)
        errors.sum().backward()
        found.append([weight.grad.clone() for weight in trained(policy).values() if weight.grad is not None])
        policy.zero_grad(set_to_none=True)
    assert len(found[0]) == len(trained(policy))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_unknown_and_unfit_targets_are_refused() -> None:
    network = counting.empty(MODEL, "unet")
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    assert lora_targets(network, ()) == ["to_q", "to_k", "to_v", "to_out.0"]
    assert lora_targets(network, ("attn2.to_q", "proj_in")) == ["attn2.to_q", "proj_in"]
    for name in ("to_x", "attn1", "norm1", "q"):
        with pytest.raises(UserError, match=rf"--lora-targets {name}: not the name of .* to_k, to_out\.0, to_q"):
            lora_targets(network, ("to_q", name))
    with pytest.raises(UserError, match=r"--lora-rank: .* name its layers with --lora-targets, from 0$"):
        lora_targets(torch.nn.Sequential(torch.nn.Linear(1, 1)), ())


def transformer(pipeline: str) -> Any:
    """Make a tiny network of one of the pipelines' real classes."""
    shape = {"in_channels": 4, "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 2}
    shape |= {"joint_attention_dim": 8, "pooled_projection_dim": 8}
    if pipeline == "FluxPipeline":
        return FluxTransformer2DModel(num_single_layers=1, axes_dims_rope=(4, 2, 2), **shape)
    return SD3Transformer2DModel(sample_size=8, patch_size=1, out_channels=4, caption_projection_dim=16, **shape)


@pytest.mark.parametrize("pipeline", ["StableDiffusion3Pipeline", "FluxPipeline"])
def test_transformers_are_adapted_on_the_text_s_side_too_and_load_again(pipeline: str, tmp_path: Path) -> None:
    network = transformer(pipeline)
    plain = {name: value.clone() for name, value in network.state_dict().items()}
    policy: Any = add_adapters(network, replace(LORA, lora_alpha=12), 0)
    names = {name.split(".lora_")[0].rpartition("attn.")[2] for name in trained(policy)}
    assert {"to_q", "to_out.0", "add_q_proj", "to_add_out"} <= names
    for weight in trained(policy).values():
        torch.nn.init.normal_(weight)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    place: Any = SimpleNamespace(folder=tmp_path, network_folder="transformer")
    write_adapters(tmp_path, place, policy)
    again = transformer(pipeline)
    again.load_state_dict(plain)
    load_adapters(again, tmp_path, "transformer")
    state = {name.replace("default_0", "default"): value for name, value in again.state_dict().items()}
    assert state.keys() == policy.state_dict().keys()
    # alpha 12 over rank 4 is in the file's B, exactly, and so the reader's scale is 1
    expected = {name: value * 3 if "lora_B" in name else value for name, value in policy.state_dict().items()}
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert {layer.scaling["default_0"] for layer in again.modules() if hasattr(layer, "scaling")} == {1.0}


def test_the_average_is_the_first_step_s_weights_then_decays() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    average = Average(0.9, network)
    for value in (1.0, 2.0, 4.0):
        network.weight.data.fill_(value)
        average.update()
    # 1; 0.9 * 1 + 0.1 * 2 = 1.1; 0.9 * 1.1 + 0.1 * 4 = 1.39
    assert average.tensors()["weight"].item() == pytest.approx(1.39, abs=1e-6)
    with average.in_place():
        assert network.weight.item() == pytest.approx(1.39, abs=1e-6)
    with pytest.raises(Killed), average.in_place():
        raise Killed
    assert network.weight.item() == 4.0


WAYS = {
    "lora": LORA,
    "lora, average": PolicyConfig(lora_rank=2, lora_alpha=4, lora_targets=("to_q", "conv1"), ema_decay=0.5),
    "average": PolicyConfig(ema_decay=0.9),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_an_interrupted_run_repeats_losses_and_checkpoints_bit_for_bit(
    config: TrainConfig, tmp_path: Path, way: str
) -> None:
    config = replace(config, steps=4, policy=WAYS[way])
    straight = replace(config, output=str(tmp_path / "straight"))
    loop.train(straight, assembly.Rank())
    train_until_killed(config, 3)
    loop.train(config, assembly.Rank())
    for name in ("loss", "gradient_norm", "accuracy"):
        assert [row[name] for row in notes(config.output)] == [row[name] for row in notes(straight.output)]
    assert notes(config.output)[0]["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert notes(config.output)[3]["loss"] != notes(config.output)[0]["loss"]
    assert notes(config.output, "assessments.jsonl") == notes(straight.output, "assessments.jsonl")
    ours, theirs = (checkpoint.folder_of(Path(one.output), 4) for one in (config, straight))
    groups = {path.stem for path in ours.glob("*.safetensors")}
    assert groups == {"network", "optimizer"} | ({"ema"} if config.policy.ema_decay else set())
    for group in groups:
        found, expected = (load_file(one / f"{group}.safetensors") for one in (ours, theirs))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.slow
def test_the_result_of_a_lora_run_is_its_adapters(config: TrainConfig) -> None:
    config = replace(config, steps=2, policy=replace(LORA, lora_alpha=16))
    loop.train(config, assembly.Rank())
    folder, kept = result_folder(Path(config.output)), checkpoint.folder_of(Path(config.output), 2)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "facts.json",
        "pytorch_lora_weights.safetensors",
    ]
    weights = load_file(kept / "network.safetensors")
    assert all("lora_" in name for name in weights)
    pipeline = StableDiffusionPipeline.from_pretrained(config.model)
    pipeline.load_lora_weights(folder)
    trainer = assembly.build(config, assembly.Rank())
    loop.load_weights(trainer.policy, weights)
    found = [
        forward.pair_errors(trainer.backbone, n, random_batch(), torch.float32) for n in (pipeline.unet, trainer.policy)
    ]
    assert torch.equal(*found)
    assert not torch.equal(found[0], trainer.reference.errors(random_batch()))
    facts = json.loads((folder / "facts.json").read_text())
    assert (facts["config"]["model"], facts["config"]["revision"]) == (str(config.model), None)
    card = (folder / "README.md").read_text()
    assert f'from_pretrained("{config.model}", dtype=torch.float32)\npipeline.load_lora_weights(".")' in card
    assert (
        "| trained | LoRA of rank 4, alpha 16 (in the weights: load at scale 1), on the attention projections |" in card
    )


@pytest.mark.slow
def test_another_reference_stays_a_network_of_its_own(config: TrainConfig, tmp_path: Path) -> None:
    other = moved_model(tmp_path / "other", 2e-3, config.model)
    config = replace(config, steps=1, checkpoint_every=1, reference_model=other)
    loop.train(config, assembly.Rank())
    adapted = replace(config, output=str(tmp_path / "adapted"), policy=LORA)
    loop.train(adapted, assembly.Rank())
    assert notes(adapted.output)[0]["loss"] == notes(config.output)[0]["loss"]  # both policies start as the same model
    assert abs(notes(config.output)[0]["loss"] - 0.693147) > 1e-3


@pytest.mark.slow
def test_the_average_is_judged_and_is_the_result(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(config, steps=4, policy=PolicyConfig(ema_decay=0.5))
    judged: list[dict[str, torch.Tensor]] = []

    def look(trainer: assembly.Trainer, *_: object) -> float:
        judged.append({name: weight.detach().clone() for name, weight in trained(trainer.policy).items()})
        return 0.5

    monkeypatch.setattr("training.run.assessment.held_out_accuracy", look)
    loop.train(config, assembly.Rank())
    output = Path(config.output)
    result = load_file(result_folder(output) / "unet" / "diffusion_pytorch_model.safetensors")
    averages = [load_file(checkpoint.folder_of(output, step) / "ema.safetensors") for step in (2, 4)]
    assert all(torch.equal(judged[1][name], averages[0][name]) for name in result)  # judged[0] is the start
    assert all(torch.equal(judged[2][name], averages[1][name]) for name in result)
    assert all(torch.equal(result[name], averages[1][name]) for name in result)
    last = load_file(checkpoint.folder_of(output, 4) / "network.safetensors")
    assert any(not torch.equal(result[name], last[name]) for name in result)


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        (PolicyConfig(lora_rank=-1), "--lora-rank -1: must be at least 1"),
        (PolicyConfig(lora_rank=4, lora_alpha=0), "--lora-alpha 0: must be at least 1"),
        (PolicyConfig(lora_rank=4, lora_targets=("to_x",)), "--lora-targets to_x: not the name"),
        (PolicyConfig(lora_targets=("to_q",)), "of which --lora-rank"),
        (PolicyConfig(ema_decay=1.0), "--ema-decay 1.0: must be between 0 and 1"),
        (PolicyConfig(ema_decay=0.0), "--ema-decay 0.0: must be between 0 and 1"),
    ],
)
def test_impossible_settings_are_refused_before_a_model_loads(
    config: TrainConfig, policy: PolicyConfig, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(DiffusersNetwork, "load_network")
    with pytest.raises(UserError, match=told):
        preflight.check_config(replace(config, policy=policy))
    preflight.check_config(replace(config, policy=LORA))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("max_gradient_norm", -1.0, "--max-gradient-norm -1: must be above 0; inf for no limit"),  # would train uphill
        ("max_gradient_norm", 0.0, "--max-gradient-norm 0: must be above 0"),
        ("adam_beta1", 1.5, "--adam-beta1 1.5: from 0 to below 1"),
        ("weight_decay", -1.0, "--weight-decay -1.0: must be at least 0"),
        ("learning_rate", math.inf, "--learning-rate inf: must be at least 0"),
        ("learning_rate", math.nan, "--learning-rate nan: must be at least 0"),
    ],
)
def test_an_optimizer_that_cannot_descend_is_refused(config: TrainConfig, name: str, value: Any, told: str) -> None:
    optimizer = replace(config.optimizer, max_gradient_norm=math.inf)
    check_flags(replace(config, optimizer=optimizer))
    with pytest.raises(UserError, match=told):
        check_flags(replace(config, optimizer=replace(optimizer, **{name: value})))


def test_resources_out_of_range_are_refused(config: TrainConfig) -> None:
    with pytest.raises(UserError, match="--cpus-per-worker -1: must be above 0"):
        check_flags(replace(config, cpus_per_worker=-1.0))
    with pytest.raises(UserError, match="--max-failures -5: must be at least -1"):
        check_flags(replace(config, max_failures=-5))
