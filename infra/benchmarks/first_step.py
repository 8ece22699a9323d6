"""What the size of a store does to a training's start: `python infra/benchmarks/first_step.py`.

The time until the first step of a run in this process is done, from stores of several sizes in turns: settings checked,
store opened, labels applied, models loaded, one step taken. Beside it what a rank holds for each pair, and what a node
keeps on disk. With --copied also from the largest store without its index: as of earlier versions, it is copied first.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from infra.base import cli, files
from infra.base.places import PathText
from infra.benchmarks.measure import in_turns, median
from infra.benchmarks.random_store import write_store
from pipelines.latents import addresses
from pipelines.latents.store import MANIFEST
from training.data.applied_labels import apply_labels
from training.data.opened import open_store
from training.run import assembly, loop, preflight
from training.settings.config import DataConfig, TrainConfig

EMBEDDINGS = {"text_encoder": (16, 64)}  # of the embedded model


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    pairs: tuple[int, ...] = (2_000, 50_000, 1_000_000)
    """Pairs of each store, ascending."""
    rows_per_file: int = 1024
    """Pairs of a file, as preset sd15 has it."""
    shape: tuple[int, int, int] = (4, 8, 8)
    """Channels, height and width of a latent: 4 64 64 is SD1.5's."""
    batch: int = 16
    """Pairs of the step."""
    rounds: int = 3
    copied: bool = False
    """Whether to measure the copy of a store without an index, too."""
    folder: str | None = None
    """Where to put the stores; by default the temporary folder."""
    json: PathText | None = None
    """File for the figures."""


def first_step(store: Path, batch: int) -> float:
    """Take the first step of a run and return the seconds that it took from the check of the settings on."""
    with tempfile.TemporaryDirectory() as name:
        data = DataConfig(store=str(store), cache=f"{name}/cache", global_batch=batch, micro_batch=batch)
        config = replace(TrainConfig(data=data), steps=1, output=f"{name}/run")
        started = time.perf_counter()
        preflight.check_settings(config)
        trainer = assembly.build(config, assembly.Rank())
        loop.take_step(trainer, trainer.policy, loop.step_share(trainer, 0), 0)
        return time.perf_counter() - started


def held(store: Path, pairs: int) -> dict[str, float]:
    """Return the bytes of a pair that a rank maps, which all ranks of a node share, and those that it has alone."""
    labelled = apply_labels(open_store(str(store)), str(store), "human")
    alone = labelled.rows.nbytes + labelled.winners.nbytes
    return {"mapped": (store / addresses.PAIRS).stat().st_size / pairs, "alone": alone / pairs}


def without_index(store: Path) -> Path:
    """Lay the files of a store out once more beside it, by links, as earlier versions did; return the folder.

    They wrote compressed files, so their copies took longer.
    """
    old = store.with_name("old")
    shutil.copytree(store, old, copy_function=os.link, ignore=shutil.ignore_patterns("index"))
    manifest = json.loads((store / MANIFEST).read_text())
    named = {name: described for name, described in manifest["files"].items() if not name.startswith("index/")}
    (old / MANIFEST).unlink()  # else the link's other end would be written
    (old / MANIFEST).write_text(json.dumps(manifest | {"files": named}))
    return old


def exponent(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """Return the slope of log seconds over log pairs, by least squares: 0 where the size has no part in it."""
    slope, _ = np.polyfit([math.log(size) for size in sizes], [math.log(each) for each in seconds], 1)
    return float(slope)


def main(config: BenchmarkConfig) -> None:
    """Measure the first step on stores of several sizes."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=config.folder) as name:
        stores = {size: Path(name) / str(size) for size in config.pairs}
        for size, path in stores.items():
            write_store(path, size, config.shape, EMBEDDINGS, rows_per_file=config.rows_per_file)
        first_step(stores[config.pairs[0]], config.batch)  # imports
        ways = {f"{size:,}": partial(first_step, path, config.batch) for size, path in stores.items()}
        if config.copied:
            ways["copied"] = partial(first_step, without_index(stores[config.pairs[-1]]), config.batch)
        samples = in_turns(ways, config.rounds, "s")
        largest = config.pairs[-1]
        bytes_held = held(stores[largest], largest)
    report(config, samples, bytes_held)


def report(config: BenchmarkConfig, samples: dict[str, list[float]], bytes_held: dict[str, float]) -> None:
    """Print the figures, and write them where asked."""
    medians = {way: median(values) for way, values in samples.items()}
    of_sizes = [medians[f"{size:,}"] for size in config.pairs]
    figures: dict[str, Any] = {
        "ratio": of_sizes[-1] / of_sizes[0],
        "exponent": exponent(config.pairs, of_sizes),
        "seconds": medians,
        "samples": samples,
        "copied": medians["copied"] / of_sizes[-1] if config.copied else None,
        "bytes_a_pair": bytes_held,
        "config": asdict(config),
    }
    print(
        f"ratio {figures['ratio']:.2f}: the first step on {config.pairs[-1]:,} pairs over that on {config.pairs[0]:,}"
    )
    if config.copied:
        print(f"copied {figures['copied']:.1f}: the first step after a copy over that without one")
    print(f"exponent {figures['exponent']:.3f} of the pairs")
    print(f"{bytes_held['mapped']:.1f} bytes a pair shared by a node's ranks, {bytes_held['alone']:.1f} of each alone")
    if config.json:
        Path(files.resolve(config.json)).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
