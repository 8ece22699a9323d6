"""SIGTERM and SIGKILL of a real process in the middle of a run: what is left, and that going on changes no loss."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from support.material import notes
from support.preloaded import forking

from infra.base import termination
from training.checkpoints import checkpoint
from training.run import assembly, loop, stopping
from training.settings.config import TrainConfig


def train_and_wait(where: str, config: TrainConfig, pipe: Connection) -> None:
    """Train in a process of its own; at step 3 it says so and waits for the signal, at a checkpoint for its kill."""
    write = safetensors.torch.save_file

    def hang(tensors: Any, path: Path, **more: Any) -> None:
        write(tensors, path, **more)
        if path.name == "optimizer.safetensors" and path.parent.name == "step-0000004":
            pipe.send("here")
            pipe.recv()

    def at_step(metrics: dict[str, Any]) -> None:
        if where == "step" and metrics["step"] == 3:
            pipe.send("here")
            pipe.recv()

    torch.set_num_threads(1)
    if where == "checkpoint":
        safetensors.torch.save_file = hang  # type: ignore[assignment]
    try:
        loop.train(config, assembly.Rank(on_step=at_step))
    except stopping.Stopped as stopped:
        pipe.send(str(stopped))
        sys.exit(termination.EXIT)


def start(config: TrainConfig, where: str) -> tuple[BaseProcess, Connection]:
    """Start a run in a process of its own and wait until it is where its signal shall find it."""
    context = forking()
    here, there = context.Pipe()
    process = context.Process(target=train_and_wait, args=(where, config, there))
    process.start()
    there.close()  # so that the end of the process ends the wait
    assert here.recv() == "here"
    return process, here


def go_on_and_compare(config: TrainConfig, straight: TrainConfig) -> None:
    loop.train(config, assembly.Rank())
    for name in ("step", "loss", "stream", "gradient_norm"):
        assert [row[name] for row in notes(config.output)] == [row[name] for row in notes(straight.output)]
    told = [notes(run.output, "assessments.jsonl") for run in (config, straight)]
    assert told[0] == told[1]


@pytest.mark.chaos
@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_of_the_step_under_way(config: TrainConfig, undisturbed: TrainConfig) -> None:
    process, pipe = start(config, "step")
    process.terminate()
    pipe.send("go on")
    assert "stopped on request after step 3; the same command goes on from there" in pipe.recv()
    process.join()
    assert process.exitcode == termination.EXIT == 143
    assert [folder.name for folder in checkpoint.complete(Path(config.output))] == ["step-0000002", "step-0000003"]
    go_on_and_compare(config, undisturbed)


@pytest.mark.chaos
@pytest.mark.slow
def test_sigkill_while_a_checkpoint_is_written_loses_that_one_only(
    config: TrainConfig, undisturbed: TrainConfig
) -> None:
    process, _ = start(config, "checkpoint")
    process.kill()
    process.join()
    torn = checkpoint.folder_of(Path(config.output), 4)
    assert (torn / "network.safetensors").exists()
    assert [folder.name for folder in checkpoint.complete(Path(config.output))] == ["step-0000002"]
    go_on_and_compare(config, undisturbed)


def test_a_note_of_the_driver_ends_the_run_after_a_step(config: TrainConfig) -> None:
    output = Path(config.output)

    def term(metrics: dict[str, object]) -> None:
        if metrics["step"] == 1:
            with stopping.passing_on(output):
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(stopping.Stopped, match="after step 1"):
        loop.train(config, assembly.Rank(on_step=term))
    assert [folder.name for folder in checkpoint.complete(output)] == ["step-0000001"]


def test_a_request_from_before_the_training_ends_it_after_a_step(config: TrainConfig) -> None:
    termination.ask()
    with pytest.raises(stopping.Stopped, match="after step 1"):
        loop.train(config, assembly.Rank())
    assert not termination.is_asked()
