"""SIGTERM and SIGKILL of a real process in the middle of a run: what is left, and that going on changes no loss."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.material import notes

from infra.base import files, termination
from training.checkpoints import checkpoint
from training.run import assembly, loop, stopping
from training.settings.config import TrainConfig

# The run in a process of its own; at step 3 it says so and waits for the signal, at a checkpoint for its kill.
PROGRAM = """
import sys
import safetensors.torch
from infra.base import cli, termination
from training.run import assembly, loop, stopping
from training.settings.config import TrainConfig

where = sys.argv.pop(1)
write = safetensors.torch.save_file

def hang(tensors, path, **_):
    write(tensors, path)
    if path.name == "optimizer.safetensors" and path.parent.name == "step-0000004":
        print("here", flush=True)
        sys.stdin.read()

def at_step(metrics):
    if where == "step" and metrics["step"] == 3:
        print("here", flush=True)
        sys.stdin.readline()

if where == "write":
    safetensors.torch.save_file = hang
try:
    cli.run(lambda config: loop.train(config, assembly.Rank(on_step=at_step)), TrainConfig)
except stopping.Stopped as stopped:
    print(stopped)
    sys.exit(termination.EXIT)
"""


def flags(config: TrainConfig) -> list[str]:
    """Write settings as flags."""
    flat: dict[str, object] = {}
    for name, value in asdict(config).items():
        flat |= value if isinstance(value, dict) else {name: value}
    return [
        part
        for k, v in flat.items()
        if v not in (None, ()) and not isinstance(v, bool)
        for part in (f"--{k.replace('_', '-')}", *map(str, v if isinstance(v, tuple) else (v,)))
    ]


def start(config: TrainConfig, where: str) -> subprocess.Popen[str]:
    """Start a run in a process of its own and wait until it is where its signal shall find it."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, where, *flags(config)],
        cwd=files.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(files.ROOT)},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == "here\n":
            return process
    raise AssertionError("the run ended before what the test waits for")


def go_on_and_compare(config: TrainConfig, straight: TrainConfig) -> None:
    loop.train(straight, assembly.Rank())
    loop.train(config, assembly.Rank())
    for name in ("step", "loss", "stream", "gradient_norm"):
        assert [row[name] for row in notes(config.output)] == [row[name] for row in notes(straight.output)]
    told = [notes(run.output, "assessments.jsonl") for run in (config, straight)]
    assert told[0] == told[1]


@pytest.fixture
def config(config: TrainConfig) -> TrainConfig:
    return replace(config, steps=5, data=replace(config.data, held_out_store=None, micro_batch=8))


@pytest.fixture
def straight(config: TrainConfig, tmp_path: Path) -> TrainConfig:
    return replace(config, output=str(tmp_path / "straight"))


@pytest.mark.chaos
@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_of_the_step_under_way(config: TrainConfig, straight: TrainConfig) -> None:
    process = start(config, "step")
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate("\n")
    assert process.returncode == termination.EXIT == 143
    assert "stopped on request after step 3; the same command goes on from there" in told
    assert [folder.name for folder in checkpoint.complete(Path(config.output))] == ["step-0000002", "step-0000003"]
    go_on_and_compare(config, straight)


@pytest.mark.chaos
@pytest.mark.slow
def test_sigkill_while_a_checkpoint_is_written_loses_that_one_only(config: TrainConfig, straight: TrainConfig) -> None:
    process = start(config, "write")
    process.kill()
    process.wait()
    torn = checkpoint.folder_of(Path(config.output), 4)
    assert (torn / "network.safetensors").exists()
    assert [folder.name for folder in checkpoint.complete(Path(config.output))] == ["step-0000002"]
    go_on_and_compare(config, straight)


def test_a_note_of_the_driver_ends_the_run_after_a_step(config: TrainConfig) -> None:
    output = Path(config.output)

    def term(metrics: dict[str, object]) -> None:
        if metrics["step"] == 1:
            with stopping.passing_on(output):
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(stopping.Stopped, match="after step 1"):
        loop.train(config, assembly.Rank(on_step=term))
    assert [folder.name for folder in checkpoint.complete(output)] == ["step-0000001"]
