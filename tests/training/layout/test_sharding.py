"""Two processes over gloo: sharded training, its checkpoints at other world sizes, shares of unequal size."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from support.material import HELD_OUT, notes
from support.preloaded import run_ranks
from support.short_runs import at, column
from support.trained_models import Killed
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor

from infra.base import (
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from training.backbones.diffusion import StableDiffusion
from training.checkpoints import checkpoint
from training.layout import sharding
from training.method.objective_config import ObjectiveConfig
from training.method.optimizer_config import OptimizerConfig
from training.method.optimizers import make_optimizer
from training.method.policy import load_adapters
from training.method.policy_config import PolicyConfig
from training.run import assembly, loop
from training.settings.config import DataConfig, TrainConfig, ValidationConfig

pytestmark = pytest.mark.slow  # they look at what two processes of their own did
FSDP = sharding.ShardingConfig(sharding="fsdp")
ADAFACTOR = OptimizerConfig(optimizer="adafactor", learning_rate=1e-4, warmup_steps=3)
WAYS: dict[str, dict[str, Any]] = {
    "adafactor": {"optimizer": ADAFACTOR, "sharding": FSDP},
    "lora": {"policy": PolicyConfig(lora_rank=4), "optimizer": OptimizerConfig(learning_rate=1e-2), "sharding": FSDP},
}


STEADY = ObjectiveConfig(beta="auto", beta_target=0.45, beta_most=1e6, safeguard=0.5)


def three_captions(config: TrainConfig) -> ValidationConfig:
    """Validate with one caption more on rank 0 than on rank 1."""
    prompts = Path(config.output).parent / "prompts.txt"
    prompts.write_text("".join(f"{scene.caption}\n" for scene in HELD_OUT[:3]))
    return replace(config.validation, validation_prompts=str(prompts), sampling_steps=2)


def no_space(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def check_adafactor() -> None:
    """Update shards and whole weights by equal gradients, over rows that two ranks cannot share evenly."""

    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Conv2d(2, 3, 3), torch.nn.Linear(6, 1))

    plain, sharded = network(), network()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (2,)))
    optimizers = [make_optimizer(ADAFACTOR, one.parameters(), torch.device("cpu")) for one in (plain, sharded)]
    pairs = list(zip(plain.parameters(), sharded.parameters(), strict=True))
    for step in range(3):
        for weight, shard in pairs:
            weight.grad = 10 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
            shard.grad = distribute_tensor(weight.grad, shard.device_mesh, shard.placements)  # type: ignore[attr-defined]
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(weight, sharding.whole(shard)) for weight, shard in pairs)
    assert sum(shard.to_local().numel() for _, shard in pairs) < sum(weight.numel() for weight, _ in pairs)  # type: ignore[attr-defined]
    states = [list(optimizer.state.values()) for optimizer in optimizers]
    assert all(
        torch.equal(one[key], other[key]) for one, other in zip(*states, strict=True) for key in one.keys() - {"step"}
    )
    assert len(states[1]) == len(pairs)


def two_ranks(rank: int, config: TrainConfig, meeting: str) -> None:
    """Run what needs two ranks, all in one pair of processes: starting them costs more than the runs."""
    torch.set_num_threads(1)
    loop.REWARD_DRAWS = 2  # the last look is not what this is about
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)

    def die(metrics: dict[str, object]) -> None:
        if metrics["step"] == 3:
            raise Killed

    def run(config: TrainConfig, on_step: Any = lambda _: None) -> None:
        loop.train(config, assembly.Rank(rank=rank, world_size=2, on_step=on_step))

    averaged = PolicyConfig(ema_decay=0.5)
    run(at(config, "sharded", sharding=FSDP, policy=averaged))
    quick = replace(config, data=replace(config.data, held_out_store=None))
    killed = at(quick, "killed", sharding=replace(FSDP, activation_checkpointing=True), policy=averaged)
    for interrupted in (
        killed,
        at(quick, "killed-adafactor", **WAYS["adafactor"]),
        at(quick, "killed-lora", **WAYS["lora"]),
    ):
        with pytest.raises(Killed):
            run(interrupted, die)
        run(interrupted)
    for way, changes in WAYS.items():
        run(at(quick, way, **changes))
    check_adafactor()
    run(at(quick, "one", sharding=FSDP, steps=6))  # begun by one rank
    alone = replace(quick.data, global_batch=7)
    run(at(config, "uneven-ddp", data=alone, steps=1))
    run(at(config, "uneven-fsdp", data=alone, steps=1, sharding=FSDP))
    run(at(config, "steady", data=alone, steps=3, objective=STEADY))
    run(at(config, "low", data=alone, steps=1, sharding=FSDP, precision="bfloat16", validation=three_captions(config)))
    full = at(config, "full", data=alone, steps=1, checkpoint_every=1, sharding=FSDP)
    if rank == 1:
        HuggingFaceStorageWriter.write_data = no_space  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"full: a checkpoint could not be written .*rank 1: .*No space left on device"):
        run(full)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(
    small_world: str, encoded_store: Path, held_out_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainConfig:
    """Return the settings of one rank's run `whole` of six steps, beside which the two ranks' runs lie."""
    folder = tmp_path_factory.mktemp("sharding")
    # Five held-out pairs in twos: one rank passes twice, the other once.
    data = DataConfig(
        store=str(encoded_store),
        held_out_store=str(held_out_store),
        cache=str(folder / "cache"),
        global_batch=8,
        micro_batch=2,
    )
    config = TrainConfig(
        model=small_world,
        output=str(folder / "whole"),
        steps=4,
        checkpoint_every=2,
        data=data,
        objective=ObjectiveConfig(beta=500.0),
        optimizer=OptimizerConfig(warmup_steps=3),
        validation=replace(TrainConfig().validation, held_out_pairs=5, held_out_draws=1),
    )
    loop.train(config, assembly.Rank())
    shutil.copytree(config.output, folder / "one")
    run_ranks(two_ranks, config, f"file://{folder / 'meeting'}")
    shutil.copytree(folder / "sharded", folder / "resharded")
    for way, changes in WAYS.items():
        shutil.copytree(folder / way, folder / f"resharded-{way}")
        alone = replace(config, data=replace(data, held_out_store=None), **changes)
        loop.train(at(alone, f"whole-{way}", steps=6), assembly.Rank())
        loop.train(at(alone, f"resharded-{way}", steps=6), assembly.Rank())
    whole = replace(config, steps=6, data=replace(data, held_out_store=None))
    loop.train(whole, assembly.Rank())
    loop.train(at(whole, "resharded", sharding=FSDP), assembly.Rank())  # begun by two ranks
    return whole


def test_two_ranks_with_shards_see_the_stream_and_losses_of_one(runs: TrainConfig) -> None:
    assert column(runs, "sharded", "stream") == column(runs, "whole", "stream")[:4]
    for key in ("loss", "gradient_norm"):
        assert column(runs, "sharded", key) == pytest.approx(column(runs, "whole", key)[:4], rel=1e-3)
    told = [notes(at(runs, name).output, "assessments.jsonl") for name in ("sharded", "whole")]
    assert [row["held_out_accuracy"] for row in told[0]] == [row["held_out_accuracy"] for row in told[1][:3]]


@pytest.mark.parametrize("way", WAYS)
def test_sharded_adafactor_and_adapters_have_the_losses_of_one_rank_s(runs: TrainConfig, way: str) -> None:
    assert column(runs, way, "stream") == column(runs, f"whole-{way}", "stream")[:4]
    for key in ("loss", "gradient_norm"):
        assert column(runs, way, key) == pytest.approx(column(runs, f"whole-{way}", key)[:4], rel=1e-3)
    assert column(runs, way, "loss")[0] == pytest.approx(0.693147, abs=1e-6)  # the reference is the policy's start
    assert column(runs, way, "loss")[3] != pytest.approx(0.693147, abs=1e-3)


@pytest.mark.parametrize(("name", "straight"), [("killed", "sharded"), *((f"killed-{way}", way) for way in WAYS)])
def test_a_sharded_run_resumes_bit_for_bit_and_recomputed_activations_change_nothing(
    runs: TrainConfig, name: str, straight: str
) -> None:
    for key in ("step", "loss", "stream", "gradient_norm"):
        assert column(runs, name, key) == column(runs, straight, key)


def test_the_result_of_sharded_adapters_is_those_of_the_last_checkpoint(runs: TrainConfig) -> None:
    found = [
        Path(at(runs, name).output) / "result" / "pytorch_lora_weights.safetensors" for name in ("lora", "killed-lora")
    ]
    assert sorted(path.name for path in found[0].parent.iterdir()) == ["README.md", "facts.json", found[0].name]
    results = [load_file(path) for path in found]
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    adapted = StableDiffusion(Path(runs.model)).load_network()
    load_adapters(adapted, found[0].parent, "unet")  # as load_lora_weights does
    last = checkpoint.folder_of(Path(at(runs, "lora").output), 4)
    kept = [load_file(path) for path in sorted((last / "shards").iterdir())]
    weights = {name: weight for name, weight in adapted.named_parameters() if ".lora_" in name}
    assert {f"network/{name}".replace("default_0", "default") for name in weights} == {
        name for part in kept for name in part if name.startswith("network/")
    }
    for name, weight in weights.items():
        shards = [part[key] for part in kept if (key := f"network/{name}".replace("default_0", "default")) in part]
        assert torch.equal(weight, torch.cat(shards))


def test_a_sharded_checkpoint_holds_safetensors_alone_and_hashes_of_all(runs: TrainConfig) -> None:
    folder = checkpoint.folder_of(Path(at(runs, "sharded").output), 4)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    shards = {f"shards/shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2)}
    assert names == {checkpoint.COMPLETE, *shards}
    assert set(checkpoint.files.read_json(str(folder / checkpoint.COMPLETE))["sha256"]) == shards


# From two ranks to one, from one to two.
@pytest.mark.parametrize("name", ["resharded", "one", *(f"resharded-{way}" for way in WAYS)])
def test_a_checkpoint_goes_on_at_another_world_size(runs: TrainConfig, name: str) -> None:
    whole = name.replace("resharded", "whole").replace("one", "whole")
    assert column(runs, name, "stream") == column(runs, whole, "stream")
    assert column(runs, name, "loss") == pytest.approx(column(runs, whole, "loss"), rel=1e-3)
    assert column(runs, name, "loss")[5] != pytest.approx(column(runs, name, "loss")[0], rel=1e-3)


def test_the_result_of_a_sharded_run_is_its_last_average_whole(runs: TrainConfig) -> None:
    results = [
        load_file(Path(at(runs, name).output) / "result" / "unet" / "diffusion_pytorch_model.safetensors")
        for name in ("sharded", "killed")
    ]
    start = load_file(Path(runs.model) / "unet" / "diffusion_pytorch_model.safetensors")
    assert results[0].keys() == start.keys()
    assert all(results[0][name].shape == start[name].shape for name in start)
    assert all(torch.equal(results[0][name], results[1][name]) for name in start)
    last = checkpoint.folder_of(Path(at(runs, "sharded").output), 4)
    kept = [load_file(path) for path in sorted((last / "shards").iterdir())]
    name = "conv_in.bias"
    assert torch.equal(results[0][name], torch.cat([part[f"ema/{name}"] for part in kept]))
    assert not torch.equal(results[0][name], torch.cat([part[f"network/{name}"] for part in kept]))
    assert not torch.equal(results[0][name], start[name])


@pytest.mark.parametrize("name", ["uneven-ddp", "uneven-fsdp"])
def test_unequal_shares_give_the_gradient_of_the_global_batch(runs: TrainConfig, name: str) -> None:
    data = replace(runs.data, global_batch=7, micro_batch=7)
    alone = at(runs, f"alone-{name}", data=data, steps=1)
    loop.train(alone, assembly.Rank())
    assert column(runs, name, "stream") == column(runs, f"alone-{name}", "stream")
    for key in ("loss", "gradient_norm"):
        assert column(runs, name, key) == pytest.approx(column(runs, f"alone-{name}", key), rel=1e-4)


def test_unequal_shares_find_the_beta_of_the_global_batch(runs: TrainConfig) -> None:
    data = replace(runs.data, global_batch=7, micro_batch=7)
    loop.train(at(runs, "alone-steady", data=data, steps=3, objective=STEADY), assembly.Rank())
    assert min(column(runs, "steady", "beta")) < 1e6  # else this would hold nothing
    for key in ("beta", "loss", "gradient_norm"):
        assert column(runs, "steady", key) == pytest.approx(column(runs, "alone-steady", key), rel=1e-2)


def test_low_precision_keeps_float32_weights(runs: TrainConfig) -> None:
    folder = checkpoint.folder_of(Path(at(runs, "low").output), 1)
    weights = load_file(next((folder / "shards").iterdir()))
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert column(runs, "low", "loss") == pytest.approx([0.693147], abs=1e-2)
    judged = notes(at(runs, "low").output, "assessments.jsonl")
    assert all(0 < row["validation_median"] <= 1 for row in judged)


def test_a_disk_full_on_one_rank_ends_all_with_one_sentence(runs: TrainConfig) -> None:
    # That both ranks raise it stands in two_ranks.
    assert not checkpoint.complete(Path(at(runs, "full").output))
    assert column(runs, "full", "step") == [1]
