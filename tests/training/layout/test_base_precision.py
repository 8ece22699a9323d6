"""Frozen weights in bfloat16, fp8 and nf4: what they hold, what they change, and who may use them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from support.bitsandbytes_apart import needs_bitsandbytes
from support.random_batches import random_batch

from infra.base.errors import UserError
from training.backbones.backbone import Backbone, open_backbone
from training.backbones.base import DiffusersNetwork
from training.backbones.schedule_config import EVERY
from training.layout import base_precision, sharding
from training.layout.base_precision import FrozenLinear, lower
from training.layout.offload import OffloadedBlocks
from training.layout.sharding_config import ShardingConfig
from training.method import forward
from training.method.batch import Batch
from training.method.policy import AdaptersOff, make_policy, trained
from training.method.policy_config import PolicyConfig
from training.settings.config import TrainConfig
from training.settings.flags import check_flags

Pipelines = Callable[[str], Path]
CPU = torch.device("cpu")
NF4 = pytest.param("nf4", marks=needs_bitsandbytes)
beside_bitsandbytes = pytest.mark.usefixtures("beside_bitsandbytes")


def policy(backbone: Backbone, precision: Any, offload: bool = False) -> torch.nn.Module:
    """Make a policy whose adapters do something."""
    made = make_policy(PolicyConfig(lora_rank=2, base_precision=precision), backbone, 0, CPU, offload)
    generator = torch.Generator().manual_seed(1)
    for name, weight in trained(made).items():
        if "lora_B" in name:
            weight.data.normal_(std=0.1, generator=generator)
    return made


def wide(layer: FrozenLinear) -> torch.Tensor:
    return layer.wide(torch.bfloat16)[0]


def errors_and_gradients(backbone: Backbone, network: torch.nn.Module, batch: Batch) -> list[torch.Tensor]:
    errors = forward.pair_errors(backbone, network, batch, torch.bfloat16)
    errors.sum().backward()
    gradients = [weight.grad for weight in trained(network).values() if weight.grad is not None]
    assert len(gradients) == len(trained(network))
    assert all(tensor.dtype == torch.float32 for tensor in (errors, *gradients, *trained(network).values()))
    return [errors.detach(), *gradients]


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux", "qwen-image", "z-image", "flux2-klein"])
def test_bfloat16_weights_change_no_bit_under_autocast(kind: str, tiny_pipeline: Pipelines) -> None:
    folder = tiny_pipeline(kind)
    backbone = open_backbone(folder, EVERY)
    batch = random_batch(folder)
    wide = policy(backbone, "float32")
    narrow = policy(backbone, "bfloat16")
    results = [errors_and_gradients(backbone, network, batch) for network in (wide, narrow)]
    assert all(torch.equal(*both) for both in zip(*results, strict=True))
    sizes = [sum(p.nbytes for p in n.parameters() if not p.requires_grad) for n in (wide, narrow)]
    assert sizes[1] < 0.55 * sizes[0]  # norms and what is no product stay float32


@beside_bitsandbytes
@pytest.mark.parametrize("precision", ["fp8", NF4])
@pytest.mark.parametrize("kind", ["sdxl", "flux", "qwen-image", "z-image"])
@pytest.mark.slow
def test_a_packed_policy_without_adapters_is_the_packed_reference(
    kind: str, precision: str, tiny_pipeline: Pipelines
) -> None:
    folder = tiny_pipeline(kind)
    backbone = open_backbone(folder, EVERY)
    batch = random_batch(folder)
    made = policy(backbone, precision)
    own, *gradients = errors_and_gradients(backbone, made, batch)
    assert all(gradient.isfinite().all() for gradient in gradients)
    apart = lower(backbone.load_network().requires_grad_(False), precision, CPU)
    reference = forward.NetworkReference(backbone, apart, torch.bfloat16).errors(batch)
    assert torch.equal(AdaptersOff(backbone, made, torch.bfloat16).errors(batch), reference)
    assert not torch.equal(own, reference)
    wide = forward.NetworkReference(backbone, backbone.load_network(), torch.bfloat16).errors(batch)
    assert not torch.equal(reference, wide)  # the precision decides the errors
    assert torch.allclose(reference, wide, rtol=0.02)


def test_fp8_scales_each_row_by_its_largest_weight() -> None:
    layer = torch.nn.Linear(3, 3, bias=False)
    # 448 is float8's largest number, so the first row's scale is 1 and the second's 2. 0.0625 * 1.1 lies between the
    # neighbours 0.0625 and 0.0703125 (three bits of fraction), and nearer to the second. The last row is 0.
    layer.weight.data = torch.tensor([[448.0, 1.0, 0.06875], [-896.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    packed = FrozenLinear(layer.requires_grad_(False), "fp8")
    assert packed.weight is not None
    assert packed.scale is not None
    assert packed.scale.flatten().tolist() == [1, 2, 1]
    assert wide(packed).tolist() == [[448, 1, 0.0703125], [-896, 3, 0], [0, 0, 0]]
    assert packed(torch.tensor([[1.0, 4.0, 0.0]])).tolist() == [[452, -884, 0]]
    assert packed.weight.nbytes == 9


@beside_bitsandbytes
@pytest.mark.parametrize("precision", [NF4])
def test_nf4_scales_64_weights_by_the_largest(precision: str) -> None:
    layer = torch.nn.Linear(64, 2, bias=False)
    # The ends of nf4's sixteen numbers are -1 and 1, and 0 is one of them (Dettmers et al. 2023, App. E).
    layer.weight.data = torch.stack([torch.tensor([-3.0, 3.0, 0.0, 0.0]).repeat(16), torch.full((64,), 0.25)])
    packed = FrozenLinear(layer.requires_grad_(False), precision)
    assert packed.weight is not None
    assert packed.scale is not None
    assert packed.scale.tolist() == [3.0, 0.25]
    assert torch.equal(wide(packed).float(), layer.weight)
    assert packed.weight.nbytes == 64


def test_the_gradient_passes_through_packed_weights() -> None:
    layer = torch.nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    packed = FrozenLinear(layer.requires_grad_(False), "fp8")
    x = torch.zeros(1, 2, requires_grad=True)
    (packed(x) * torch.tensor([1.0, 10.0])).sum().backward()
    # d/dx of y W^T with y = (1, 10): 1 * (1, 2) + 10 * (3, 4). Each weight is a power of two or 3 times one: exact.
    assert x.grad is not None
    assert x.grad.flatten().tolist() == pytest.approx([31, 42], rel=2**-3)


def test_layers_are_packed_where_the_weights_are_and_nowhere_else(tiny_pipeline: Pipelines) -> None:
    backbone = open_backbone(tiny_pipeline("flux"), EVERY)
    network: Any = policy(backbone, "fp8")
    block = network.transformer_blocks[0]
    assert isinstance(block.attn.to_q.base_layer, FrozenLinear)
    assert isinstance(block.norm1.linear, FrozenLinear)
    assert block.attn.norm_q.weight.dtype == torch.float32
    assert network.x_embedder.weight.dtype == torch.bfloat16  # outside the blocks
    assert block.attn.to_q.lora_A["default"].weight.dtype == torch.float32


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tiny_pipeline: Pipelines) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    backbone = open_backbone(tiny_pipeline("flux"), EVERY)
    monkeypatch.delattr(DiffusersNetwork, "load_network")
    with pytest.raises(UserError, match="--base-precision nf4: this worker lacks the package bitsandbytes"):
        make_policy(PolicyConfig(lora_rank=2, base_precision="nf4"), backbone, 0)
    base_precision.check_package("fp8")


@pytest.mark.parametrize(
    ("changes", "precision", "told"),
    [
        ({}, "bfloat16", "--base-precision fp8: is for frozen weights, and without --lora-rank all are trained"),
        ({"lora_rank": 4}, "float32", "--base-precision fp8: its products are computed in bfloat16, and this is"),
    ],
)
def test_flags_that_do_not_go_together(changes: dict[str, Any], precision: Any, told: str) -> None:
    config = replace(TrainConfig(), precision=precision, policy=PolicyConfig(base_precision="fp8", **changes))
    with pytest.raises(UserError, match=told):
        check_flags(config)


def test_shards_want_one_number_format() -> None:
    config = replace(TrainConfig(), precision="bfloat16", policy=PolicyConfig(lora_rank=4, base_precision="bfloat16"))
    check_flags(config)
    with pytest.raises(UserError, match="--base-precision bfloat16: shards need weights of one number format"):
        check_flags(replace(config, sharding=replace(config.sharding, sharding="fsdp")))


@beside_bitsandbytes
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "fp8", NF4])
def test_offloaded_blocks_change_no_bit(precision: str, tiny_pipeline: Pipelines) -> None:
    folder = tiny_pipeline("flux")
    backbone = open_backbone(folder, EVERY)
    batch = random_batch(folder)
    here = policy(backbone, precision)
    away = policy(backbone, precision, offload=True)
    for network in (here, away):
        network.enable_gradient_checkpointing()  # type: ignore[operator]  # of diffusers
    results = [errors_and_gradients(backbone, network, batch) for network in (here, away)]
    assert all(torch.equal(*both) for both in zip(*results, strict=True))
    layers = [part for part in away.modules() if isinstance(part, FrozenLinear)]
    assert not [tensor for layer in layers for tensor in layer.parameters()]
    blocks = layers[0].blocks
    assert blocks is not None
    assert len(blocks.stored) == 2  # a double block and a single one


def test_the_block_that_comes_next_is_brought_ahead() -> None:
    blocks = OffloadedBlocks(CPU)
    places = [blocks.add([torch.full((2,), float(value))])[0] for value in range(4)]

    def use(*order: int) -> None:
        for block in order:
            assert blocks.on_device(places[block]).tolist() == [block, block]

    use(0, 1, 2, 3, 2, 1, 0, 1)  # forward, backward, and the next forward pass begins
    assert set(blocks.here) == {1, 2}  # after 0 and 1 came 2
    use(2, 3, 2)
    assert set(blocks.here) == {1, 2}  # after 3 and 2 came 1


@pytest.mark.parametrize(
    ("policy_config", "changes", "told"),
    [
        (PolicyConfig(), {}, "--offload blocks: is for frozen weights, and without --lora-rank all are trained"),
        (PolicyConfig(lora_rank=2), {"sharding": "fsdp"}, "--offload blocks: does not go with --sharding fsdp"),
        (PolicyConfig(lora_rank=2), {"compile": True}, "--offload blocks: does not go with --compile"),
    ],
)
def test_what_offloading_does_not_go_with(policy_config: PolicyConfig, changes: dict[str, Any], told: str) -> None:
    layout = ShardingConfig(offload="blocks", **changes)
    with pytest.raises(UserError, match=told):
        check_flags(replace(TrainConfig(), policy=policy_config, sharding=layout))


def rank_gradients(rank: int, folder: Path, precision: str, meeting: str, output: Path) -> None:
    """Take two backward passes on one of two ranks, each on a pair of its own, and keep the averaged gradients."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    backbone = open_backbone(folder, EVERY)
    network = policy(backbone, precision) if precision else make_policy(PolicyConfig(), backbone, 0)
    wrapped = sharding.replicate(network, 2)
    batch = one_pair(random_batch(folder), rank)
    for _ in range(2):  # a rank that waits for a gradient which never comes fails in the second pass
        network.zero_grad(set_to_none=True)
        forward.pair_errors(backbone, wrapped, batch, torch.bfloat16).sum().backward()
    gradients = {name: weight.grad for name, weight in trained(network).items() if weight.grad is not None}
    save_file(gradients, output / f"{rank}.safetensors")
    dist.destroy_process_group()


def one_pair(batch: Batch, place: int) -> Batch:
    here = slice(place, place + 1)
    return replace(
        batch,
        pair_ids=batch.pair_ids[here],
        latents=batch.latents[:, here],
        noise=batch.noise[here],
        timesteps=batch.timesteps[here],
        conditioning={name: value[here] for name, value in batch.conditioning.items()},
        preferred=batch.preferred[here],
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["", "fp8"])  # all weights, and adapters beside packed ones
def test_two_ranks_of_qwen_image_wait_for_no_gradient_that_never_comes(
    precision: str, tiny_pipeline: Pipelines, tmp_path: Path
) -> None:
    """Six tensors of its last block reach no output (to_add_out, txt_mlp)."""
    folder = tiny_pipeline("qwen-image")
    backbone = open_backbone(folder, EVERY)
    context = torch.multiprocessing.get_context("fork")  # which has imported everything already
    given = (folder, precision, str(tmp_path / "meeting"), tmp_path)
    ranks = [context.Process(target=rank_gradients, args=(rank, *given)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0, 0]
    results = [load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)]
    network = policy(backbone, precision) if precision else make_policy(PolicyConfig(), backbone, 0)
    idle = [name for name, weight in network.named_parameters() if "to_add_out" in name or "txt_mlp" in name]
    assert not [name for name in results[0] if name in idle and name.startswith("transformer_blocks.1.")]
    for place in (0, 1):
        forward.pair_errors(backbone, network, one_pair(random_batch(folder), place), torch.bfloat16).sum().backward()
    for name, weight in trained(network).items():
        assert torch.equal(results[0][name], results[1][name])
        assert weight.grad is not None
        assert torch.allclose(results[0][name], weight.grad / 2, rtol=1e-4, atol=1e-7)
