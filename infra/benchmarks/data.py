"""Whether the loader keeps ahead of the step: `python infra/benchmarks/data.py`.

The loader alone (training.data.loader.step_batches, one thread) in the latent and embedding shapes of
SD1.5 or SDXL, from a cold and from a warm page cache, against what a step consumes; whether its memory grows with the
steps; and what order and draws for a billion pairs take.
"""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import time
import tracemalloc
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from infra.base import cli, files
from infra.base.cpu import keep_freed_memory
from infra.base.places import PathText
from infra.benchmarks.random_store import write_store
from infra.planning.measured import STORED_SHAPES
from training.data.applied_labels import Labelled, apply_labels
from training.data.loader import Share, step_batches
from training.data.opened import open_store
from training.method.draws import draw
from training.method.order import batch_rows

AIM = {"sd15": 77.0, "sdxl": 9.0}  # pairs/s of one H200 at half its peak, the highest that a step is hoped to consume
BILLION = 10**9


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    model: Literal["sd15", "sdxl"] = "sd15"
    pairs: int = 4096
    """Pairs of the store; each is read once a pass."""
    batch: int = 64
    """Pairs per step, in micro-batches of 16."""
    passes: int = 3
    """Passes over the warm store."""
    consumes: float | None = None
    """Pairs/s of the step to compare with; by default the aim on an H200, 77 for sd15 and 9 for sdxl."""
    folder: str | None = None
    """Where to put the store: a disk for the cold pass; by default the temporary folder."""
    json: PathText | None = None
    """File for the figures."""


def evict(paths: Iterable[Path]) -> None:
    """Drop files from the page cache; none may be mapped."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def anonymous_bytes() -> int:
    """Return this process's memory without its mapped files, which belong to the page cache."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024


def disk_bytes() -> int:
    """Return how many bytes this process has had read from disk."""
    counters = dict(line.split(": ", 1) for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["read_bytes"])


def one_pass(data: Labelled, batch: int, first: int) -> float:
    """Make every batch of an epoch, from step `first` on, and return pairs/s."""
    share = Share(batch, min(16, batch))
    steps = len(data.rows) // batch
    started = time.perf_counter()
    for step in range(first, first + steps):
        step_batches(data, step, share, 0, lambda uniform: int(uniform * 1000), 0.2)
    return steps * batch / (time.perf_counter() - started)


def billion() -> dict[str, float]:
    """Measure the start on a billion pairs: seconds and bytes of the order and the draws.

    The order is that of a global batch of 2048 at the first, the middle and the last step. The draws are those of the
    first 16 pairs of each, a micro-batch.
    """
    steps = BILLION // 2048
    tracemalloc.start()
    started = time.perf_counter()
    for step in (0, steps // 2, steps - 1):
        epoch, rows = batch_rows(step, BILLION, 2048, 0)
        for row in itertools.islice(rows, 16):
            draw(0, epoch, int(row), (4, 64, 64), lambda uniform: int(uniform * 1000))
    seconds = time.perf_counter() - started
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"seconds": seconds, "peak_bytes": float(peak)}


def main(config: BenchmarkConfig) -> None:
    """Measure the loader against what a step consumes, its memory, and its start on a billion pairs."""
    torch.set_num_threads(1)
    keep_freed_memory()
    start = billion()
    print("a billion pairs: the order of three global batches and 16 draws of each")
    print(f"in {start['seconds']:.3f} s, {start['peak_bytes'] / 1e6:.2f} MB")
    shape, embeddings = STORED_SHAPES[config.model]
    with tempfile.TemporaryDirectory(dir=config.folder) as name:
        path = Path(name) / "store"
        write_store(path, config.pairs, shape, embeddings)
        evict(file for file in path.rglob("*") if file.is_file())
        before = disk_bytes()
        data = apply_labels(open_store(str(path)), str(path), "human")
        cold = one_pass(data, config.batch, 0)
        read = disk_bytes() - before
        steps = config.pairs // config.batch
        memory = [anonymous_bytes()]
        warm = []
        for number in range(1, config.passes + 1):
            warm.append(one_pass(data, config.batch, number * steps))
            memory.append(anonymous_bytes())
    consumes = config.consumes or AIM[config.model]
    ratio = min(cold, *warm) / consumes
    grown = memory[-1] - memory[0]
    print(
        f"cold {cold:,.0f} pairs/s ({read / 1e6:,.0f} MB read from disk), warm {', '.join(f'{w:,.0f}' for w in warm)}"
    )
    print(f"memory {memory[0] / 1e6:,.1f} MB at first, {grown / 1e6:+.1f} MB after {steps * config.passes} steps more")
    print(f"ratio {ratio:.1f}: the slowest pass over a step's {consumes:g} pairs/s")
    if config.json:
        figures = {
            "ratio": ratio,
            "cold": cold,
            "warm": warm,
            "unit": "pairs/s",
            "consumes": consumes,
            "disk_bytes": read,
            "memory_bytes": memory,
            "billion": start,
            "config": asdict(config),
        }
        Path(files.resolve(config.json)).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
