"""The optimizers' arithmetic on one weight, and their state's way through a checkpoint, bit for bit."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file
from support.bitsandbytes_apart import needs_bitsandbytes
from support.material import notes
from support.trained_models import train_until_killed

from infra.base.errors import UserError
from training.checkpoints import checkpoint
from training.method.optimizer_config import OptimizerConfig, check_optimizer, learning_rate
from training.method.optimizers import load_state, make_optimizer, state_tensors
from training.run import assembly, loop, preflight
from training.settings.config import TrainConfig

CPU = torch.device("cpu")
ADAFACTOR = OptimizerConfig(optimizer="adafactor", learning_rate=0.1)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(80, 64), torch.nn.Linear(64, 1))


def take_step(trained: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    trained(torch.linspace(-1, 1, 160).view(2, 80)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_adamw_has_the_flags_of_the_run_and_not_torchs_defaults() -> None:
    config = OptimizerConfig(
        learning_rate=0.1, adam_beta1=0.5, adam_beta2=0.75, adam_epsilon=1.0, weight_decay=0.2, max_gradient_norm=1.0
    )
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = make_optimizer(config, [weight], CPU)
    weight.grad = torch.tensor([0.5])
    optimizer.step()
    # The means over one gradient are g and g^2: 0.1 * 0.5 / (0.5 + 1). The weight decays by 0.1 * 0.2.
    first = 2.0 * 0.98 - 0.1 * 0.5 / 1.5
    assert weight.item() == pytest.approx(first, abs=1e-6)
    weight.grad = torch.tensor([1.0])
    optimizer.step()
    mean = (0.5 * 0.25 + 0.5 * 1.0) / (1 - 0.5**2)
    square = (0.75 * 0.25 * 0.25 + 0.25 * 1.0) / (1 - 0.75**2)
    assert weight.item() == pytest.approx(first * 0.98 - 0.1 * mean / (square**0.5 + 1), abs=1e-6)


@pytest.mark.parametrize(
    ("warmup", "step", "rate"), [(4, 0, 0.25), (4, 2, 0.75), (4, 3, 1.0), (4, 99, 1.0), (0, 0, 1.0), (1, 0, 1.0)]
)
def test_the_rate_rises_in_a_line_and_stays(warmup: int, step: int, rate: float) -> None:
    assert learning_rate(OptimizerConfig(learning_rate=2.0, warmup_steps=warmup), step) == 2.0 * rate


def test_adafactor_s_first_step_is_the_rate_times_the_sign() -> None:
    weight = torch.nn.Parameter(torch.tensor([2.0, -3.0]))
    optimizer = make_optimizer(replace(ADAFACTOR, weight_decay=0.2), [weight], CPU)
    weight.grad = torch.tensor([0.5, 0.25])
    optimizer.step()
    # v = g^2, so g / sqrt(v) = 1 with an RMS of 1, not clipped; not scaled by the weights' RMS; decay 0.2 * 0.1 * w.
    assert weight.tolist() == pytest.approx([2.0 - 0.04 - 0.1, -3.0 + 0.06 - 0.1], abs=1e-6)


def test_adafactor_s_update_is_cut_to_an_rms_of_1() -> None:
    weight = torch.nn.Parameter(torch.tensor([2.0, -3.0]))
    optimizer = make_optimizer(replace(ADAFACTOR, weight_decay=0.0), [weight], CPU)
    for gradient in (0.001, 10.0):
        weight.grad = torch.full((2,), gradient)
        optimizer.step()
    # At step 2, v = (1 - 2^-0.8) 0.001^2 + 2^-0.8 10^2, so g / sqrt(v) = 2^0.4 = 1.32 in both, which is cut to 1.
    assert weight.tolist() == pytest.approx([2.0 - 0.1 - 0.1, -3.0 - 0.1 - 0.1], abs=1e-5)


def test_adafactor_keeps_a_row_and_a_column_of_a_matrix_and_no_first_moment() -> None:
    trained = network()
    optimizer = make_optimizer(ADAFACTOR, trained.parameters(), CPU)
    take_step(trained, optimizer)
    found = state_tensors(optimizer, dict(trained.named_parameters()))
    assert {k.split("/")[0]: tuple(v.shape) for k, v in found.items() if k.endswith("/0.weight")} == {
        "number:step": (),
        "exp_avg_sq_row": (64,),
        "exp_avg_sq_col": (80,),
        "RMS": (),
    }


@pytest.mark.usefixtures("beside_bitsandbytes")
@pytest.mark.parametrize("name", ["adamw", "adafactor", pytest.param("adamw8bit", marks=needs_bitsandbytes)])
def test_a_state_comes_back_with_its_types_and_goes_on_as_if_uninterrupted(name: str, tmp_path: Path) -> None:
    config = replace(ADAFACTOR, optimizer=cast(Any, name))
    straight, resumed = network(), network()
    optimizer = make_optimizer(config, straight.parameters(), CPU)
    for _ in range(3):
        take_step(straight, optimizer)
    weights = dict(straight.named_parameters())
    state = checkpoint.State(step=3, seed=0, global_batch=8, store_hash="", labels_hash="")
    groups: checkpoint.Groups = {"network": weights, "optimizer": state_tensors(optimizer, weights)}
    checkpoint.save(tmp_path, state, checkpoint.copied(groups))
    folder = checkpoint.folder_of(tmp_path, 3)
    resumed.load_state_dict(load_file(folder / "network.safetensors"))
    again = make_optimizer(config, resumed.parameters(), CPU)
    load_state(again, dict(resumed.named_parameters()), load_file(folder / "optimizer.safetensors"))
    one, other = state_tensors(optimizer, weights), state_tensors(again, dict(resumed.named_parameters()))
    assert one.keys() == other.keys()  # which say what is a Python number
    assert all(torch.equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one)
    take_step(straight, optimizer)
    take_step(resumed, again)
    assert all(torch.equal(*pair) for pair in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_tables_that_weights_share_are_saved_for_each(tmp_path: Path) -> None:
    table = torch.arange(256, dtype=torch.uint8)  # bitsandbytes has one such table for all weights
    groups = {"optimizer": {"a": table, "b": table}}
    checkpoint.save(
        tmp_path,
        checkpoint.State(step=1, seed=0, global_batch=8, store_hash="", labels_hash=""),
        checkpoint.copied(groups),
    )
    folder = checkpoint.folder_of(tmp_path, 1)
    found = load_file(folder / "optimizer.safetensors")
    assert torch.equal(found["a"], table)
    assert torch.equal(found["b"], table)


@pytest.mark.slow
def test_a_run_with_adafactor_resumes_bit_for_bit(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, steps=4, optimizer=replace(config.optimizer, optimizer="adafactor"))
    straight = replace(config, output=str(tmp_path / "straight"))
    loop.train(straight, assembly.Rank())
    train_until_killed(config, 3)
    loop.train(config, assembly.Rank())
    for name in ("loss", "gradient_norm"):
        assert [row[name] for row in notes(config.output)] == [row[name] for row in notes(straight.output)]


def test_8_bit_adamw_is_refused_where_it_cannot_run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = OptimizerConfig(optimizer="adamw8bit")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="--optimizer adamw8bit: bitsandbytes is not installed"):
        preflight.check_config(replace(config, optimizer=wanted))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: importlib.util)
    check_optimizer(wanted, torch.device("cuda"))
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.49.2")
    with pytest.raises(UserError, match=r"has a cpu, on which bitsandbytes 0\.49\.2 does not work; install 0\.50 or"):
        assembly.build(replace(config, optimizer=wanted), assembly.Rank())
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.50.2")
    check_optimizer(wanted, CPU)


@needs_bitsandbytes
@pytest.mark.usefixtures("beside_bitsandbytes")
def test_8_bit_adamw_keeps_a_byte_a_moment_on_a_cpu_and_follows_adamw() -> None:
    """Each of the two moments of a weight of 64x80 is 5,120 bytes; after 3 steps of 1e-3 the two stay close."""
    plain, small = network(), network()
    optimizers = [
        make_optimizer(replace(ADAFACTOR, optimizer=cast(Any, name), learning_rate=1e-3), one.parameters(), CPU)
        for name, one in (("adamw", plain), ("adamw8bit", small))
    ]
    start = network().state_dict()
    for _ in range(3):
        for one, optimizer in zip((plain, small), optimizers, strict=True):
            take_step(one, optimizer)
    state = state_tensors(optimizers[1], dict(small.named_parameters()))
    moments = [value for key, value in state.items() if key.split("/")[0] in ("state1", "state2") and "0.weight" in key]
    assert [(value.dtype, value.numel()) for value in moments] == [(torch.uint8, 64 * 80)] * 2
    for name, value in plain.state_dict().items():
        moved = (value - start[name]).abs().max()
        assert (value - small.state_dict()[name]).abs().max() < 0.2 * moved
