"""Asynchronous checkpoints: what is written is what was copied, and an error reaches the training loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from infra.errors import UserError
from training import assembly, checkpoint, loop
from training.checkpoint_writer import CheckpointWriter
from training.config import TrainConfig
from training.optimizers import state_tensors

STATE = checkpoint.State(step=1, seed=0, global_batch=8, store_hash="s", labels_hash="l")


def updated(network: torch.nn.Linear, optimizer: torch.optim.AdamW) -> None:
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()


@pytest.fixture
def network() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


def test_a_snapshot_does_not_follow_later_updates(network: torch.nn.Linear, tmp_path: Path) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    updated(network, optimizer)
    weight = network.weight.detach().clone()
    moment = optimizer.state[network.weight]["exp_avg"].clone()
    weights = dict(network.named_parameters())
    groups = checkpoint.copied({"network": weights, "optimizer": state_tensors(optimizer, weights)})
    updated(network, optimizer)  # in place, while the snapshot waits to be written
    checkpoint.save(tmp_path, STATE, groups)
    folder = checkpoint.folder_of(tmp_path, 1)
    assert not torch.equal(network.weight, weight)
    assert torch.equal(load_file(folder / "network.safetensors")["weight"], weight)
    assert torch.equal(load_file(folder / "optimizer.safetensors")["exp_avg/weight"], moment)
    assert checkpoint.read_state(folder) == STATE


def fails(error: BaseException) -> Callable[[], None]:
    def job() -> None:
        raise error

    return job


def test_a_failing_disk_is_told_once_at_the_next_step(tmp_path: Path) -> None:
    writer, started, leave = CheckpointWriter(tmp_path), threading.Event(), threading.Event()

    def slow() -> None:
        started.set()
        leave.wait()
        raise OSError(28, "No space left on device")

    writer.submit(slow)
    started.wait()
    writer.check()  # still under way: nothing to tell
    leave.set()
    with pytest.raises(UserError, match=f"{tmp_path}: a checkpoint could not be written .*No space left"):
        writer.wait()
    writer.close()  # told once


def test_another_error_stays_what_it_is(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path)
    writer.submit(fails(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        writer.close()


def test_rewinding_makes_an_earlier_checkpoint_the_latest(network: torch.nn.Linear, tmp_path: Path) -> None:
    for step in (2, 4, 6):
        state = checkpoint.State(**{**vars(STATE), "step": step})
        checkpoint.save(tmp_path, state, {"network": dict(network.state_dict())})
    with pytest.raises(UserError, match=r"--resume-from 5: .* has complete checkpoints of steps \[2, 4, 6\]"):
        checkpoint.rewind(str(tmp_path), 5)
    checkpoint.rewind(str(tmp_path), 4)
    assert [checkpoint.step_of(folder) for folder in checkpoint.complete(tmp_path)] == [2, 4]


@pytest.mark.chaos
def test_a_full_disk_ends_the_run_with_one_sentence(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = checkpoint.save

    def full(output: Path, state: checkpoint.State, groups: checkpoint.Groups) -> None:
        if state.step == 4:
            raise OSError(28, "No space left on device")
        whole(output, state, groups)

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        loop.train(config, assembly.Rank())
    assert [folder.name for folder in checkpoint.complete(Path(config.output))] == ["step-0000002"]
