"""Networks compiled by torch: the losses and the names of others, whole and in shards."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.material import MODEL
from support.preloaded import run_ranks
from support.short_runs import at, column
from support.trained_models import train_until_killed

from infra.base import (
    torchvision_guard,  # noqa: F401  (before diffusers)
)
from infra.base.errors import UserError
from training.backbones.diffusion import StableDiffusion
from training.layout import sharding
from training.method.objective_config import ObjectiveConfig
from training.method.optimizer_config import OptimizerConfig
from training.run import assembly, loop
from training.settings.config import TrainConfig

import diffusers  # isort: skip

FSDP = sharding.ShardingConfig(sharding="fsdp")


def test_without_a_compiler_nothing_is_loaded(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiled = replace(config, sharding=sharding.ShardingConfig(compile=True))
    monkeypatch.setenv("CXX", os.devnull)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delattr(assembly, "open_backbone")
    with pytest.raises(UserError, match=r"--compile: torch\.compile needs a C\+\+ compiler"):
        assembly.build(compiled, assembly.Rank())
    (tmp_path / "g++").write_text("")
    (tmp_path / "g++").chmod(0o755)
    sharding.check_compiler(compiled.sharding)


def test_compiling_keeps_the_names_of_weights() -> None:
    network = StableDiffusion(MODEL).load_network()
    names = list(network.state_dict())
    sharding.prepare(sharding.ShardingConfig(compile=True), network, torch.float32, torch.device("cpu"), 1)
    assert network._compiled_call_impl is not None
    assert list(network.state_dict()) == names


def smallest_model(folder: Path, kind: str = "") -> str:
    """Write the embedded world's model with a network of three residual blocks, which compiles in seconds.

    Args:
        kind: CrossAttn puts a transformer behind each of them, which takes some times as long.
    """
    shutil.copytree(MODEL, folder)
    torch.manual_seed(0)
    blocks = {"down_block_types": (f"{kind}DownBlock2D",), "up_block_types": (f"{kind}UpBlock2D",)}
    shape = {"sample_size": 8, "block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 4}
    shape |= {"cross_attention_dim": 64, "attention_head_dim": 2}
    network = diffusers.UNet2DConditionModel(mid_block_type=None, **shape, **blocks)
    network.save_pretrained(folder / "unet")
    return str(folder)


@pytest.mark.long  # the compiler takes over a minute of CPU
def test_compiled_steps_have_the_losses_of_others_and_resume_bit_for_bit(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import metrics as kernels  # which loads the compiler: most tests need none of it

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    data, rate = replace(config.data, held_out_store=None), OptimizerConfig(learning_rate=1e-3)
    sft = ObjectiveConfig(objective="sft")  # without a reference there is one pass to compile
    config = replace(
        config, model=smallest_model(tmp_path / "small"), steps=4, data=data, objective=sft, optimizer=rate
    )
    compiled = sharding.ShardingConfig(compile=True)
    eager, straight = at(config, "eager"), at(config, "straight", sharding=compiled)
    for run in (eager, straight):
        before = kernels.generated_kernel_count
        loop.train(run, assembly.Rank())
        assert (kernels.generated_kernel_count > before) == run.sharding.compile
    killed = at(config, "killed", sharding=compiled)
    train_until_killed(killed, 3)
    torch.compiler.reset()  # what goes on is another process, which compiles again
    loop.train(killed, assembly.Rank())
    assert column(config, "straight", "stream") == column(config, "eager", "stream")
    for key in ("loss", "gradient_norm"):
        assert column(config, "straight", key) == pytest.approx(column(config, "eager", key), rel=1e-4)
        assert column(config, "killed", key) == column(config, "straight", key)


def two_compiled_ranks(rank: int, config: TrainConfig, meeting: str) -> None:
    """Train with shards as they are, and with compiled blocks."""
    from torch._inductor import metrics as kernels

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    for name in ("eager", "compiled"):
        before, compiled = kernels.generated_kernel_count, name == "compiled"
        run = at(config, name, sharding=replace(FSDP, compile=compiled))
        loop.train(run, assembly.Rank(rank=rank, world_size=2))
        assert (kernels.generated_kernel_count > before) == compiled
    dist.destroy_process_group()


@pytest.mark.long
def test_compiled_blocks_of_a_sharded_network_have_the_losses_of_others(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    rate = OptimizerConfig(learning_rate=1e-3)
    data = replace(config.data, held_out_store=None, micro_batch=2)
    config = replace(config, model=smallest_model(tmp_path / "small", "CrossAttn"), steps=3, data=data, optimizer=rate)
    run_ranks(two_compiled_ranks, config, f"file://{tmp_path / 'meeting'}")
    assert column(config, "compiled", "stream") == column(config, "eager", "stream")
    for key in ("loss", "gradient_norm"):
        assert column(config, "compiled", key) == pytest.approx(column(config, "eager", key), rel=1e-4)
    assert column(config, "eager", "loss")[2] != pytest.approx(column(config, "eager", "loss")[0], rel=1e-2)
