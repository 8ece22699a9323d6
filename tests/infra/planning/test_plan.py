"""The trainer's dry run on a store of random pairs and a model without weights."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.material import MODEL

from infra.base import cli
from infra.base.dry_run import DryRunConfig
from infra.base.errors import UserError
from infra.benchmarks.random_store import write_store
from training.method.objective_config import ObjectiveConfig
from training.method.optimizer_config import OptimizerConfig
from training.method.optimizers import make_optimizer
from training.method.policy_config import PolicyConfig
from training.run import network_count, plan
from training.run.train_dpo import main
from training.settings.config import DataConfig, TrainConfig, ValidationConfig
from training.settings.presets import PRESETS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store of 40 pairs, one of other shapes, and the world's model without weights."""
    folder = tmp_path_factory.mktemp("plan")
    write_store(folder / "store", 40, (4, 8, 8), {"text_encoder": (16, 64)})
    write_store(folder / "other", 40, (4, 8, 8), {"text_encoder": (16, 96)})
    shutil.copytree(MODEL, folder / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def table(folder: Path, *flags: str) -> dict[str, str]:
    """Run the dry run and return its table."""
    given = ["--store", f"{folder}/store", "--model", f"{folder}/model", "--output", f"{folder}/run"]
    with pytest.MonkeyPatch.context() as patched:
        said: list[str] = []
        patched.setattr("builtins.print", lambda *told, **_: said.extend(map(str, told)))
        cli.run(main, TrainConfig, PRESETS, [*given, "--dry-run", *flags], plan=plan.print_plan)
    lines = [line.split("  ") for text in said for line in text.splitlines()]
    return {next(p for p in line if p).strip(): line[-1].strip() for line in lines}


@pytest.mark.slow
def test_the_table_holds_what_the_manifest_and_the_settings_say(folder: Path) -> None:
    told = table(folder, "--global-batch", "16", "--micro-batch", "8", "--steps", "5", "--price-per-hour", "2.5")
    assert told["pairs"] == "40 of --labels human"
    assert told["steps"] == "5 of 16 pairs, 1 x 8 at once"
    assert told["epochs"] == "2.5 of 2 steps"
    assert told["parameters"] == "1,152,476"
    # 24 bytes of each of 40 pairs, 20 of each of 17 captions
    index = f"{(24 * 40 + 20 * 17) / 1e9:,.4g} GB"
    assert told["kept on each node's disk"] == f"none, or of a store on S3 its index, {index}"
    assert told["utilisation"] == "0.4 (assumed)"
    assert told["cost"].endswith("at 2.5 an hour")
    pair = float(told["TFLOP per pair"])
    forward = float(told["policy, forward of 2 images"])
    assert pair == pytest.approx(4 * forward)  # forward, backward twice, reference once
    assert float(told["TFLOP of training"]) == pytest.approx(80 * pair, rel=1e-3)
    assert not (folder / "run").exists()


def test_pair_work_and_memory_by_hand() -> None:
    usual, ten = (
        plan.layout(TrainConfig()),
        plan.Network(parameters=10, trained=10, factors=7, forward=3.0, activations=0),
    )
    assert [work for _, work in plan.pair_work(usual, 3.0)] == [6.0, 12.0, 6.0]
    assert [size for _, size in plan.memory(usual, ten)] == [40, 40, 80, 40]
    alone = plan.layout(TrainConfig(objective=ObjectiveConfig(objective="sft")))
    assert [work for _, work in plan.pair_work(alone, 3.0)] == [6.0, 12.0]
    assert [size for _, size in plan.memory(alone, ten)] == [40, 40, 80]
    kto = TrainConfig(objective=ObjectiveConfig(objective="kto"))  # 32 pairs a step, 16 at once
    assert [work for _, work in plan.pair_work(plan.layout(kto), 3.0)] == [6.0, 12.0, 6.0, 6.0]
    spread = plan.Layout(reference=True, recomputed=True, shards=4)
    assert [work for _, work in plan.pair_work(spread, 3.0)] == [6.0, 12.0, 6.0, 6.0]
    assert [size for _, size in plan.memory(spread, ten)] == [10, 10, 20, 10]
    # Two weights of adapters beside the ten: gradients, moments and average of these alone, no second network.
    lora = plan.layout(TrainConfig(policy=PolicyConfig(lora_rank=1, ema_decay=0.9)))
    assert [work for _, work in plan.pair_work(lora, 3.0)] == [6.0, 6.0, 6.0]
    assert [
        size
        for _, size in plan.memory(
            lora, plan.Network(parameters=10, trained=2, factors=2, forward=3.0, activations=0, frozen=40)
        )
    ] == [40, 8, 8, 16, 8]
    cached = plan.layout(
        TrainConfig(data=DataConfig(reference="base"), optimizer=OptimizerConfig(optimizer="adamw8bit"))
    )
    assert [work for _, work in plan.pair_work(cached, 3.0)] == [6.0, 12.0]
    assert [size for _, size in plan.memory(cached, ten)] == [40, 40, 20]
    whole = plan.Layout(reference=False, optimizer="adafactor", shards=2)  # its state is no shard
    assert [size for _, size in plan.memory(whole, ten)] == [20, 20, 28]


def test_adafactor_keeps_as_much_as_is_planned() -> None:
    layers = (torch.nn.Linear(5, 3), torch.nn.Conv2d(4, 6, 3), torch.nn.Conv2d(4, 6, 1), torch.nn.LayerNorm(7))
    weights = [weight for layer in layers for weight in layer.parameters()]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = make_optimizer(OptimizerConfig(optimizer="adafactor"), weights, torch.device("cpu"))
    optimizer.step()
    kept = [
        sum(
            value.numel()
            for value in optimizer.state[weight].values()
            if isinstance(value, torch.Tensor) and value.dim()
        )
        for weight in weights
    ]
    # Linear 3 + 5 and bias 3; 24 kernels of 3 x 3, nine numbers each, keep 3 + 3; of 1 x 1, 1 + 1; a norm's all.
    assert kept == [8, 3, 24 * 6, 6, 24 * 2, 6, 7, 7]
    assert kept == [network_count.adafactor_state(weight.shape) for weight in weights]


def test_validation_by_hand(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a\nb\nc\n")
    config = TrainConfig(
        steps=10,
        checkpoint_every=4,  # assessed at 0, 4, 8 and 10
        data=DataConfig(held_out_store=str(folder / "other")),
        validation=ValidationConfig(
            validation_prompts=str(tmp_path / "prompts.txt"), sampling_steps=5, held_out_pairs=8, held_out_draws=2
        ),
    )
    few, every = 2 * 8 * 2, 2 * 40 * 10  # images at the draws of 8 pairs, and of all 40
    held_out = (4 + 1) * few + 2 * every  # the policy four times and the reference once; both of them in the end
    drawn = 4 * 3 * 5 * 2  # two passes a step, for guidance
    assert plan.validation_work(config, 40, 3.0) == 3.0 * (held_out + drawn)
    unguided = replace(config, validation=replace(config.validation, guidance_scale=1.0))
    assert plan.validation_work(unguided, 40, 3.0) == 3.0 * (held_out + drawn / 2)
    three = replace(config, validation=replace(config.validation, validation_images=3))
    assert plan.validation_work(three, 40, 3.0) == 3.0 * (held_out + 3 * drawn)
    assert plan.validation_work(config, 5, 3.0) == 3.0 * ((4 + 1) * 2 * 5 * 2 + 2 * 2 * 5 * 10 + drawn)  # all five


def test_pairs_that_fit_by_hand() -> None:
    # 10 GB for 4 pairs at once, of which each takes 2: 2 GB are there without any. 22 GB hold 11 more.
    network = plan.Network(parameters=1, trained=1, factors=1, forward=1.0, activations=0, more_pairs=2e9)
    assert plan.fitting(10e9, 4, network) == [11, 23, 39, 69]
    assert plan.fitting(148e9, 4, network) == [0, 0, 0, 0]  # 140 GB without a pair, and 141 leave half of one
    assert plan.fitting_row([11, 23, 39, 1069]) == "11 in 24 GB, 23 in 48 GB, 39 in 80 GB, 1,069 in 141 GB"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--global-batch", "8", "--micro-batch", "3"), "--global-batch 8: not a multiple of 1 workers"),
        (("--global-batch", "8", "--micro-batch", "4", "--workers", "3"), "not a multiple of 3 workers"),
        (
            ("--global-batch", "64", "--micro-batch", "1", "--workers", "64"),
            "40 labelled pairs to train on, fewer than",
        ),
        (("--labels", "taste"), "--labels taste"),
        (("--keep-checkpoints", "0"), "--keep-checkpoints 0"),
        (("--store", "/nowhere"), "/nowhere: no latent store here"),
    ],
)
def test_the_run_s_refusals_are_the_plan_s(
    folder: Path, flags: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        table(folder, *flags)
    assert stopped.value.code == 2
    # print is patched there, so the sentence is not on stderr but the exception's cause
    assert told in str(stopped.value.__cause__)
    assert not capsys.readouterr().err


def test_a_preset_is_planned_before_there_are_a_store_and_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cli.run(main, TrainConfig, PRESETS, ["--preset", "flux2-klein", "--dry-run"], plan=plan.print_plan)
    told = capsys.readouterr()
    rows = dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in told.out.splitlines())
    assert rows["pairs"].startswith("851,293 ")
    assert rows["parameters"] == "3,875,544,576"
    # 2 bytes of 128 x 64 x 64 of two images a pair; of 512 x 7680 a caption, the empty one too
    captions = 58_961 * 2 * 512 * 7680
    assert rows["embeddings and captions"] == f"{captions / 1e9:,.4g} GB"
    index = 24 * 851_293 + 20 * 58_961
    assert rows["store"] == f"{(851_293 * 2 * 2 * 128 * 64 * 64 + captions + index) / 1e9:,.4g} GB"
    assert "--model black-forest-labs/FLUX.2-klein-base-4B: is out of reach; its settings in " in told.err
    assert f"--store {tmp_path}/runs/store: is not there yet; one of Pick-a-Pic v2 is counted" in told.err


def test_a_store_of_another_model_s_shapes_is_refused(folder: Path) -> None:
    config = TrainConfig(
        model=str(folder / "model"), output=str(folder / "run"), data=DataConfig(store=str(folder / "other"))
    )
    with pytest.raises(UserError, match=r"its unet does not take .* text_encoder \[16, 96\]"):
        plan.print_plan(config, DryRunConfig(dry_run=True))
