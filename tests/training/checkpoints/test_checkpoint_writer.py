"""Asynchronous checkpoints: what is written is what was copied, and an error reaches the training loop."""

from __future__ import annotations

import os
import resource
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.material import notes

from infra.base.errors import UserError
from training.checkpoints import checkpoint
from training.checkpoints.checkpoint_writer import CheckpointWriter
from training.method.optimizers import state_tensors
from training.run import assembly, keeping, loop
from training.settings.config import TrainConfig

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


def save_steps(output: Path, network: torch.nn.Linear, steps: Sequence[int]) -> None:
    for step in steps:
        state = checkpoint.State(**{**vars(STATE), "step": step})
        checkpoint.save(output, state, {"network": dict(network.state_dict())})


def test_rewinding_makes_an_earlier_checkpoint_the_latest(network: torch.nn.Linear, tmp_path: Path) -> None:
    save_steps(tmp_path, network, (2, 4, 6))
    checkpoint.rewind(str(tmp_path), 4)
    assert [checkpoint.step_of(folder) for folder in checkpoint.complete(tmp_path)] == [2, 4]


def test_a_request_to_rewind_names_a_whole_checkpoint_and_deletes_nothing(
    network: torch.nn.Linear, tmp_path: Path
) -> None:
    output = str(tmp_path)
    save_steps(tmp_path, network, (2, 4, 6))
    with pytest.raises(UserError, match=r"--resume-from 5: .* has complete checkpoints of steps \[2, 4, 6\]"):
        checkpoint.ask_to_rewind(output, 5)
    torn = checkpoint.folder_of(tmp_path, 2) / "network.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"step-0000002/network\.safetensors: altered"):
        checkpoint.ask_to_rewind(output, 2)
    assert checkpoint.next_start(output) == 6
    checkpoint.ask_to_rewind(output, 4)
    assert checkpoint.next_start(output) == 4
    assert checkpoint.complete_steps(output) == [2, 4, 6]
    checkpoint.forget_request(output)
    assert checkpoint.next_start(output) == 6


@pytest.mark.chaos
def test_a_copy_beside_the_checkpoints_is_none_and_stays(network: torch.nn.Linear, tmp_path: Path) -> None:
    save_steps(tmp_path, network, (2, 4))
    backup = tmp_path / "checkpoints" / "step-0000004.bak"
    shutil.copytree(checkpoint.folder_of(tmp_path, 4), backup)
    assert checkpoint.complete_steps(str(tmp_path)) == [2, 4]
    checkpoint.sweep(tmp_path, keep=1, best=None)
    assert sorted(path.name for path in backup.parent.iterdir()) == ["step-0000004", "step-0000004.bak"]
    assert (backup / "network.safetensors").is_file()


@pytest.mark.parametrize(("keep", "left"), [(1, [1, 5]), (3, [1, 3, 4, 5])])
def test_a_run_keeps_as_many_checkpoints_as_its_flag_says_and_the_best(
    keep: int, left: list[int], network: torch.nn.Linear, tmp_path: Path
) -> None:
    save_steps(tmp_path, network, range(1, 6))
    asked: list[float | None] = []

    def best_step(steps: Sequence[int], stop_when: float | None) -> int:
        asked.append(stop_when)
        return min(steps)

    config = TrainConfig(output=str(tmp_path), keep_checkpoints=keep, stop_when=0.05)
    trainer: Any = SimpleNamespace(output=tmp_path, config=config, journal=SimpleNamespace(best_step=best_step))
    assert keeping.sweep(trainer) == 1
    assert checkpoint.complete_steps(str(tmp_path)) == left
    assert asked == [0.05]


def test_a_mirror_is_told_how_many_checkpoints_the_flag_keeps(
    network: torch.nn.Linear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int, int | None]] = []
    mirror = SimpleNamespace(send=lambda step, keep, best: sent.append((step, keep, best)))
    monkeypatch.setattr(keeping, "run_state", lambda *_: STATE)
    monkeypatch.setattr(keeping, "snapshot", lambda _: {"network": dict(network.named_parameters())})
    trainer: Any = SimpleNamespace(
        output=tmp_path, config=TrainConfig(keep_checkpoints=3), policy=network, mirror=mirror
    )
    for job in keeping._writing(trainer, 1, best=None):
        job()
    assert sent == [(1, 3, None)]
    assert checkpoint.complete_steps(str(tmp_path)) == [1]


@pytest.mark.chaos
def test_a_sweep_does_not_follow_a_link(network: torch.nn.Linear, tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_steps(run, network, (2, 4))
    elsewhere = tmp_path / "elsewhere"
    folder = checkpoint.folder_of(run, 2)
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    checkpoint.sweep(run, keep=1, best=None)
    assert not folder.is_symlink()
    assert (elsewhere / "network.safetensors").is_file()


@pytest.mark.chaos
@pytest.mark.parametrize("name", ["network", "optimizer", "ema"])
def test_a_lost_torn_or_altered_file_of_a_checkpoint_is_named(
    name: str, network: torch.nn.Linear, tmp_path: Path
) -> None:
    weights = dict(network.state_dict())
    checkpoint.save(tmp_path, STATE, {"network": weights, "optimizer": weights, "ema": weights})
    folder = checkpoint.folder_of(tmp_path, 1)
    file = folder / f"{name}.safetensors"
    whole = file.read_bytes()
    for spoilt in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        file.write_bytes(spoilt)
        with pytest.raises(UserError, match=rf"{name}\.safetensors: altered since it was written; delete {folder} "):
            checkpoint.read_state(folder)
    file.unlink()
    with pytest.raises(UserError, match=rf"{name}\.safetensors: missing; delete {folder} to resume "):
        checkpoint.read_state(folder)
    file.write_bytes(whole)
    assert checkpoint.read_state(folder) == STATE


@pytest.mark.chaos
@pytest.mark.parametrize(
    "change",
    [
        lambda marker: marker[:0],
        lambda marker: marker[:-9],
        lambda marker: f"[{marker}]",
        lambda marker: marker.replace('"sha256"', '"sha255"'),
        lambda marker: marker.replace('"labels_hash"', '"labels"'),  # as of another version of this code
    ],
)
def test_a_torn_or_older_marker_is_named(
    change: Callable[[str], str], network: torch.nn.Linear, tmp_path: Path
) -> None:
    checkpoint.save(tmp_path, STATE, {"network": dict(network.state_dict())})
    folder = checkpoint.folder_of(tmp_path, 1)
    marker = folder / checkpoint.COMPLETE
    marker.write_text(change(marker.read_text()))
    with pytest.raises(UserError, match=r"complete\.json: not a whole marker .*; delete .*step-0000001 to resume"):
        checkpoint.read_state(folder)


@pytest.mark.chaos
def test_the_latest_checkpoint_is_the_highest_step_whatever_the_clock_said(
    network: torch.nn.Linear, tmp_path: Path
) -> None:
    for step in (2, 4, 6):
        state = checkpoint.State(**{**vars(STATE), "step": step})
        checkpoint.save(tmp_path, state, {"network": dict(network.state_dict())})
        for path in [*checkpoint.folder_of(tmp_path, step).iterdir(), checkpoint.folder_of(tmp_path, step)]:
            os.utime(path, (4e9 - 1e8 * step,) * 2)  # each a few years before the one before, all in the future
    assert checkpoint.complete_steps(str(tmp_path)) == [2, 4, 6]
    checkpoint.sweep(tmp_path, keep=1, best=None)
    assert checkpoint.complete_steps(str(tmp_path)) == [6]


@pytest.mark.slow
@pytest.mark.chaos
def test_a_disk_that_takes_no_more_ends_the_run_and_with_room_it_goes_on_the_same(
    config: TrainConfig, undisturbed: TrainConfig
) -> None:
    config = replace(config, data=replace(config.data, held_out_store=None))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(metrics: dict[str, Any]) -> None:
        if metrics["step"] == 3:  # from now on the kernel refuses what makes a file longer than this
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))

    try:
        with pytest.raises(UserError, match=rf"{config.output}: a checkpoint could not be written .*File too large"):
            loop.train(config, assembly.Rank(on_step=fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.complete_steps(config.output) == [2]
    loop.train(config, assembly.Rank())
    assert [row["loss"] for row in notes(config.output)] == [row["loss"] for row in notes(undisturbed.output)]


@pytest.mark.slow
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
