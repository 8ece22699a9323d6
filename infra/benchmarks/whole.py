"""The whole path against a loop as the authors': `python infra/benchmarks/whole.py`.

Ours: train_dpo.py with --source, one process that encodes once and then trains, without a cluster. Theirs:
inline_trainer.py, one process that decodes and encodes in every step. Both begin with raw pairs and end with a folder
that diffusers opens; both take the same number of pairs, pieces and steps, on one thread, with the same settings of the
allocator. In turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.base import cli, files
from infra.base.places import PathText
from infra.benchmarks.encode import repeated_pairs
from infra.benchmarks.measure import median

MICRO_BATCH = 16
PIECES = 2
MODEL = "infra/world/model"


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    source: str = "infra/world/pairs"
    """Raw pairs; repeated under ids of their own."""
    repeats: tuple[int, ...] = (1, 2, 4)
    """How often the pairs are taken: 1 is 458 decided pairs."""
    epochs: tuple[int, ...] = (1, 3, 5)
    rounds: int = 3
    against: PathText | None = None
    """Another checkout with a .venv of its own, whose path is measured in the same turns: encode_latents.py, then
    train_dpo.py."""
    apart: bool = False
    """Also measure encode_latents.py and train_dpo.py as two commands."""
    json: PathText | None = None
    """File for the figures."""


def timed(command: Sequence[str], checkout: Path, folder: Path) -> float:
    """Run a command of a checkout and return its seconds; what it prints goes to FOLDER/log.

    Raises:
        RuntimeError: with the end of the log, if it fails.
    """
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "datasets")}
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | settings
    started = time.perf_counter()
    with (folder / "log").open("wb") as log:
        done = subprocess.run(command, cwd=checkout, env=environment, stdout=log, stderr=log, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{command}: exit code {done.returncode}\n{(folder / 'log').read_text()[-2000:]}")
    return seconds


def ours(source: Path, steps: int, checkout: Path, python: str, apart: bool = False) -> float:
    """Encode a source and train on its store, in one command or in two; return their seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = str(folder / "store")
        encode = ["pipelines/encode_latents.py", "--source", str(source), "--store", store, "--model", MODEL]
        begun = timed([python, *encode], checkout, folder) if apart else 0.0
        train = ["training/train_dpo.py", "--store", store, "--model", MODEL, "--output", str(folder / "run")]
        shape = ["--steps", str(steps), "--global-batch", str(PIECES * MICRO_BATCH), "--micro-batch", str(MICRO_BATCH)]
        rate = ["--beta", "500", "--learning-rate", "1e-5", "--warmup-steps", "0", "--caption-dropout", "0"]
        first = [] if apart else ["--source", str(source)]
        return begun + timed([python, *train, *first, *shape, *rate], checkout, folder)


def theirs(source: Path, steps: int) -> float:
    """Train with the loop that encodes in every step; return its seconds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = ["--micro-batch", str(MICRO_BATCH), "--pieces", str(PIECES)]
        script = ["-m", "infra.benchmarks.inline_trainer", str(source), MODEL, str(folder / "result"), str(steps)]
        return timed([sys.executable, *script, *sizes], files.ROOT, folder)


def break_even(seconds: Mapping[str, Mapping[int, float]]) -> float | None:
    """Return the number of epochs from which ours is faster, by straight lines through each side's seconds.

    Returns:
        0 if it is faster from the start; None if it never is, or for one number of epochs alone.
    """
    if len(seconds["ours"]) < 2:
        return None
    begun, per_epoch = _line(seconds["ours"])
    their_begun, their_per_epoch = _line(seconds["theirs"])
    if begun <= their_begun:
        return 0.0
    return (begun - their_begun) / (their_per_epoch - per_epoch) if per_epoch < their_per_epoch else None


def _line(seconds: Mapping[int, float]) -> tuple[float, float]:
    """Fit a straight line through seconds by epochs; return its value at 0 epochs and its slope."""
    slope, begun = np.polyfit(list(seconds), list(seconds.values()), 1)
    return float(begun), float(slope)


def measure(config: BenchmarkConfig, source: Path, pairs: int) -> dict[str, dict[int, float]]:
    """Measure every side at each number of epochs; return medians of seconds by side and epochs."""
    seconds: dict[str, dict[int, float]] = {}
    for epochs in config.epochs:
        steps = epochs * (pairs // (PIECES * MICRO_BATCH))
        ways: dict[str, Callable[[], float]] = {
            "ours": partial(ours, source, steps, files.ROOT, sys.executable),
            "theirs": partial(theirs, source, steps),
        }
        if config.against:
            other = Path(config.against).resolve()
            ways["against"] = partial(ours, source, steps, other, str(other / ".venv/bin/python"), apart=True)
        if config.apart:
            ways["apart"] = partial(ours, source, steps, files.ROOT, sys.executable, apart=True)
        print(f"{pairs} pairs, {epochs} epochs, {steps} steps", flush=True)
        samples: dict[str, list[float]] = {side: [] for side in ways}
        for number in range(config.rounds):
            for side in list(ways)[:: 1 if number % 2 else -1]:
                samples[side].append(ways[side]())
            print("  " + ", ".join(f"{side} {taken[-1]:.1f} s" for side, taken in samples.items()), flush=True)
        for side, taken in samples.items():
            seconds.setdefault(side, {})[epochs] = median(taken)
    return seconds


def main(config: BenchmarkConfig) -> None:
    """Measure the whole path against a loop that encodes in every step."""
    by_pairs: dict[int, dict[str, Any]] = {}
    for repeats in config.repeats:
        with tempfile.TemporaryDirectory() as name:
            once = pq.read_table(files.resolve(config.source), columns=["label_0"]).num_rows
            table = repeated_pairs(config.source, repeats * once)
            pq.write_table(table, Path(name, "pairs.parquet"))
            decided = pc.sum(pc.is_in(table["label_0"], value_set=pa.array([0.0, 1.0]))).as_py()
            seconds = measure(config, Path(name), decided)
        ratio = {str(epochs): seconds["ours"][epochs] / seconds["theirs"][epochs] for epochs in config.epochs}
        by_pairs[decided] = {"ratio": ratio, "seconds": seconds, "break_even": break_even(seconds)}
        shown = ", ".join(f"{epochs} epochs {value:.2f}" for epochs, value in ratio.items())
        print(f"{decided} pairs: ours over theirs {shown}; break-even {by_pairs[decided]['break_even']}", flush=True)
    if config.json:
        smallest = by_pairs[min(by_pairs)]
        whole = {"ratio": smallest["ratio"], "by_pairs": by_pairs, "config": asdict(config)}
        Path(files.resolve(config.json)).write_text(json.dumps(whole, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
