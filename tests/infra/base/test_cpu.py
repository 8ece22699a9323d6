"""A packed layer computes what the layer did, and attention's own layers are left to it."""

from __future__ import annotations

import torch

from infra.base import cpu


def test_packed_layers_compute_what_the_layers_did() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.GELU(), torch.nn.Linear(7, 3, bias=False))
    model.requires_grad_(False)
    inputs = torch.randn(4, 6, 5)
    with torch.inference_mode():
        expected = model(inputs)
        cpu.pack_linears(model)
        assert [type(layer) for layer in model] == [cpu.PackedLinear, torch.nn.GELU, cpu.PackedLinear]
        torch.testing.assert_close(model(inputs), expected, atol=1e-6, rtol=1e-6)


def test_attention_keeps_its_projection() -> None:
    model = torch.nn.Sequential(torch.nn.MultiheadAttention(8, 2)).requires_grad_(False)
    cpu.pack_linears(model)
    assert isinstance(model[0].out_proj, torch.nn.Linear)
