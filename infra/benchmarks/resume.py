"""Seconds from start to first step, by the step that is resumed from: `python infra/benchmarks/resume.py`.

The embedded world's model and a store of random pairs, in this process and without Ray: build, resume, one step. The
checkpoints say that they are of step 10, 10,000 and 1,000,000, and as many lines of notes lie beside them.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from infra.base import cli, files
from infra.base.places import PathText
from infra.benchmarks.measure import in_turns, median
from infra.benchmarks.random_store import write_store
from training.checkpoints import checkpoint
from training.checkpoints.run_folder import STEPS
from training.run import assembly, keeping, loop
from training.settings.config import DataConfig, TrainConfig


@dataclass(frozen=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    steps: tuple[int, ...] = (10, 10_000, 1_000_000)
    """Steps to resume from."""
    rounds: int = 3
    json: PathText | None = None
    """File for the figures."""


def fake_checkpoint(config: TrainConfig, step: int) -> None:
    """Write what a run of so many steps leaves: a checkpoint that says so, and a line of notes for each step."""
    trainer = assembly.build(config, assembly.Rank())
    keeping.resume(trainer)
    record = loop.take_step(trainer, trainer.policy, loop.step_share(trainer, 0), 0)
    checkpoint.save(trainer.output, keeping.run_state(trainer, step), keeping.snapshot(trainer))
    head = json.dumps(record.finish(1.0, 0.0, config.data.global_batch) | {"step": "STEP"})
    with (trainer.output / STEPS).open("w") as notes:
        notes.writelines(head.replace('"STEP"', str(number)) + "\n" for number in range(1, step + 1))
    trainer.journal.close()


def starts_per_second(config: TrainConfig, expected: int) -> float:
    """Build, resume and take one step; return one over the seconds that it took."""
    started = time.perf_counter()
    trainer = assembly.build(config, assembly.Rank())
    step = keeping.resume(trainer)
    loop.take_step(trainer, trainer.policy, loop.step_share(trainer, step), step)
    seconds = time.perf_counter() - started
    trainer.journal.close()
    assert step == expected
    return 1 / seconds


def main(config: BenchmarkConfig) -> None:
    """Measure the seconds from start to first step at several steps."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_store(folder / "store", 256, (4, 8, 8), {"text_encoder": (16, 64)})
        data = DataConfig(store=str(folder / "store"), cache=str(folder / "cache"))
        base = replace(TrainConfig(data=data), steps=10**9)
        ways = {}
        for step in config.steps:
            settings = replace(base, output=str(folder / f"run-{step}"))
            fake_checkpoint(settings, step)
            ways[f"step {step}"] = partial(starts_per_second, settings, step)
        samples = in_turns(ways, config.rounds, "starts/s")
    seconds = {way: 1 / median(values) for way, values in samples.items()}
    ratio = max(seconds.values()) / min(seconds.values())
    print("  ".join(f"{way}: {value:.2f} s" for way, value in seconds.items()) + f"  ratio {ratio:.3f} (flat is 1)")
    if config.json:
        figures = {"ratio": ratio, "seconds": seconds, "samples": samples, "unit": "starts/s", "config": asdict(config)}
        Path(files.resolve(config.json)).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
