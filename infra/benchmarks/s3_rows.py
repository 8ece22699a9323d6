"""How long a step waits for rows of a store on S3: `python infra/benchmarks/s3_rows.py`.

A store in the shapes of SD1.5 or SDXL lies behind a server on loopback, each of whose answers is 30 ms late. The loader
reads ahead as for a GPU, on threads, while the step, which computes elsewhere, only lets its time pass. Printed are the
part of a step that is waited for data, and requests and bytes of a pair.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from unittest import mock

import torch

from infra.base import cli, files
from infra.base.cpu import keep_freed_memory
from infra.base.places import PathText
from infra.benchmarks.data import AIM
from infra.benchmarks.random_store import write_store
from infra.benchmarks.slow_s3 import serving
from infra.planning.measured import STORED_SHAPES
from training.data.applied_labels import Labelled, apply_labels
from training.data.loader import Share, begin_step, prefetch, read_ahead, steps_ahead
from training.data.opened import open_store
from training.method.batch import Batch

PAIRS_OF_A_CAPTION = 14  # of Pick-a-Pic
KEYS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    model: Literal["sd15", "sdxl"] = "sd15"
    pairs: int = 2048
    """Pairs of the store."""
    batch: int = 16
    """Pairs per step."""
    steps: int = 100
    """Steps that are measured, after ten that are not."""
    consumes: float | None = None
    """Pairs/s of the step; by default the aim on an H200, 77 for sd15 and 9 for sdxl."""
    delay: float = 30.0
    """Milliseconds by which each answer is late."""
    folder: str | None = None
    """Where to put the store; by default the temporary folder."""
    json: PathText | None = None
    """File for the figures."""


def waited(data: Labelled, batch: int, steps: int, seconds: float) -> float:
    """Take steps that last some seconds each and return the part of their time in which they waited for data."""
    share = Share(batch, batch)

    def begin(step: int) -> Callable[[], list[Batch]]:
        return begin_step(data, step, share, 0, lambda uniform: int(uniform * 1000), 0.2)

    batches = prefetch(read_ahead(range(10 + steps), begin, steps_ahead(data, share)))
    waits = []
    for _ in range(10 + steps):
        started = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - started)
        time.sleep(seconds)
    return sum(waits[10:]) / (sum(waits[10:]) + steps * seconds)


def main(config: BenchmarkConfig) -> None:
    """Measure the wait for rows from a slow S3 server, and requests and bytes of a pair."""
    torch.set_num_threads(1)
    keep_freed_memory()
    shape, embeddings = STORED_SHAPES[config.model]
    consumes = config.consumes or AIM[config.model]
    with tempfile.TemporaryDirectory(dir=config.folder) as name:
        write_store(
            Path(name) / "bucket/store", config.pairs, shape, embeddings, prompts=config.pairs // PAIRS_OF_A_CAPTION
        )
        with (
            serving(Path(name), config.delay / 1000) as server,
            mock.patch.dict(os.environ, KEYS | {"AWS_ENDPOINT_URL": server.url}),
        ):
            started = time.perf_counter()
            data = apply_labels(open_store("s3://bucket/store", f"{name}/cache"), "s3://bucket/store", "human")
            opening = time.perf_counter() - started
            before = server.totals()
            part = waited(data, config.batch, config.steps, config.batch / consumes)
            after = server.totals()
        kept = sum(path.stat().st_size for path in Path(name, "cache").rglob("*.arrow"))
    read = (10 + config.steps) * config.batch
    requests = (after[0] - before[0]) / read
    size = (after[1] - before[1]) / read
    print(f"opened in {opening:.2f} s; {kept:,} bytes kept on the node's disk, {kept / config.pairs:.0f} a pair")
    print(f"{requests:.2f} requests and {size / 1000:,.1f} kB a pair")
    print(f"ratio {part:.4f}: the wait for data in a step of {config.batch} pairs at {consumes:g} pairs/s")
    if config.json:
        figures = {
            "ratio": part,
            "requests_a_pair": requests,
            "bytes_a_pair": size,
            "opening_seconds": opening,
            "kept_bytes": kept,
            "config": asdict(config),
        }
        Path(files.resolve(config.json)).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
