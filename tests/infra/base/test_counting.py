"""FLOPs and memory counted without weights: by hand on small modules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.material import MODEL
from torch.nn import functional as F

from infra.base import counting
from infra.base.errors import UserError


def test_a_linear_layer_costs_two_operations_a_product() -> None:
    with counting.META:
        layer = torch.nn.Linear(3, 5)
        rows = torch.empty(2, 3)
    assert counting.flops(lambda: layer(rows)) == 2 * 2 * 3 * 5
    assert counting.parameters(layer) == 3 * 5 + 5


def chain(layers: int) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    with counting.META:
        network = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(layers)))
        rows = torch.empty(2, 4)
    return network, lambda: network(rows)


def test_without_gradients_two_outputs_are_alive_at_once_however_deep() -> None:
    output = 2 * 4 * 4  # rows x width x bytes
    with torch.no_grad():
        assert [counting.peak_bytes(*chain(n), torch.float32) for n in (2, 3, 8)] == [2 * output] * 3


def test_with_gradients_each_layer_keeps_its_output() -> None:
    output = 2 * 4 * 4
    peaks = [counting.peak_bytes(*chain(n), torch.float32) for n in (8, 12)]
    assert peaks[1] - peaks[0] == 4 * output
    assert all(parameter.grad is None for parameter in chain(2)[0].parameters())


def test_autocast_adds_a_narrow_copy_of_each_weight_that_is_trained() -> None:
    output = 2 * 4 * 2
    weights = (16 + 4) * 2  # bfloat16
    peaks = [counting.peak_bytes(*chain(n), torch.bfloat16) for n in (8, 12)]
    assert peaks[1] - peaks[0] == 4 * (output + weights)  # of a bias too: torch keeps the copies until autocast ends


def test_of_a_frozen_weight_only_the_copy_that_the_backward_pass_needs_is_kept() -> None:
    peaks = []
    for layers in (8, 12):
        network, work = chain(layers)
        network.requires_grad_(False)
        network[0].bias.requires_grad_(True)  # type: ignore[index, union-attr]
        peaks.append(counting.peak_bytes(network, work, torch.bfloat16))
    assert peaks[1] - peaks[0] == 4 * 16 * 2  # neither biases nor outputs: no weight asks for its gradient


def test_attention_keeps_no_matrix_of_weights() -> None:
    with counting.META:
        rows = torch.empty(1, 1, 4096, 8)
    with torch.no_grad():
        peak = counting.peak_bytes(
            torch.nn.Identity(), lambda: F.scaled_dot_product_attention(rows, rows, rows), torch.float32
        )
    assert peak < 4096 * 4096


def world_network() -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    network = counting.empty(MODEL, "unet")
    with counting.META:
        inputs = torch.empty(2, 4, 8, 8), torch.zeros(2, dtype=torch.int64), torch.empty(2, 16, 64)
    return network, lambda: network(*inputs, return_dict=False)[0]


@pytest.mark.slow
def test_backward_costs_twice_the_forward_and_recomputation_once_more() -> None:
    network, forward = world_network()
    with torch.no_grad():
        once = counting.flops(forward)
    trained = counting.flops(lambda: forward().sum().backward())
    assert 2.95 * once < trained <= 3 * once  # the first layer's input needs no gradient
    network.enable_gradient_checkpointing()  # type: ignore[operator]
    again = counting.flops(lambda: forward().sum().backward())
    assert 3.5 * once < again <= 4 * once  # what lies outside the blocks, or ends one, is not computed again


@pytest.mark.slow
def test_checkpointing_takes_less_memory_than_keeping_everything() -> None:
    network, forward = world_network()
    kept = counting.peak_bytes(network, forward, torch.float32)
    network, forward = world_network()
    assert counting.peak_bytes(network, forward, torch.float32, checkpointing=True) < 0.7 * kept


def test_a_component_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"unet": ["os", "system"]}')
    with pytest.raises(UserError, match="its unet is of no class that diffusers or transformers has"):
        counting.make(tmp_path, "unet")
