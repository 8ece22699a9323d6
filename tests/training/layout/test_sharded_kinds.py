"""Each kind's network on two processes that share its weights: errors and gradients are those of one network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from support.preloaded import run_ranks
from support.random_batches import random_batch
from support.tiny_pipelines import NEW
from torch.distributed.tensor import DTensor

from training.backbones.backbone import open_backbone
from training.backbones.schedule_config import EVERY
from training.layout import sharding
from training.layout.sharding_config import ShardingConfig
from training.method import forward
from training.method.policy import make_policy
from training.method.policy_config import PolicyConfig

CPU = torch.device("cpu")
KINDS = ("sd3", "flux", *NEW)


def errors_and_gradients(folder: Path, layout: ShardingConfig, world: int) -> dict[str, torch.Tensor]:
    """Return a batch's errors, and every weight's gradient of their sum, by its name."""
    backbone = open_backbone(folder, EVERY)
    network = make_policy(PolicyConfig(), backbone, 0, CPU)
    sharding.prepare(layout, network, torch.float32, CPU, world)
    errors = forward.pair_errors(backbone, network, random_batch(folder), torch.float32)
    errors.sum().backward()
    assert sharding.is_sharded(network) == (world > 1)
    weights = dict(network.named_parameters())
    assert all(isinstance(weight, DTensor) == (world > 1) for weight in weights.values())
    gradients = {name: weight.grad for name, weight in weights.items() if weight.requires_grad}
    return {"errors": errors.detach()} | {
        name: sharding.whole(grad) for name, grad in gradients.items() if grad is not None
    }


def two_ranks(rank: int, folders: dict[str, Path], meeting: str) -> None:
    """Let both ranks see the same batch: the mean of their gradients is either's."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    for kind, folder in folders.items():
        for recomputed in (False, True):
            layout = ShardingConfig(sharding="fsdp", activation_checkpointing=recomputed)
            shared = errors_and_gradients(folder, layout, 2)
            whole = errors_and_gradients(folder, ShardingConfig(), 1)
            assert shared.keys() == whole.keys(), kind
            for name, value in whole.items():
                torch.testing.assert_close(shared[name], value, rtol=1e-4, atol=1e-5, msg=f"{kind}: {name}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_share_the_weights_of_every_kind(tiny_pipeline: Callable[[str], Path], tmp_path: Path) -> None:
    run_ranks(two_ranks, {kind: tiny_pipeline(kind) for kind in KINDS}, f"file://{tmp_path / 'meeting'}")
