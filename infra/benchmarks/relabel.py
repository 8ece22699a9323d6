"""What batches and Ray make of scoring: `python infra/benchmarks/relabel.py --scorers pickscore`.

Ours: relabel.py's pass on a local cluster, two copies of the scorers. Bare: two processes, one thread each, the same
steps and batches over the same rows, no Ray. Both are measured once each copy has scored a file's worth of pairs ("once
it runs"), ours by the time at which each batch is done: files come later, in bursts. One by one: two such processes
in the authors' way, infra/benchmarks/authors_loop.py.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from infra import cli, cluster, files
from infra.benchmarks import authors_loop
from infra.benchmarks.encode import repeated_pairs
from infra.benchmarks.measure import in_processes, in_turns, median
from labelers import scorers
from labelers.pair_scores import ScoreRawPairs
from pipelines import pairs

COPIES = 2
BLOCK = 2048  # pairs per file, the published preset's: what each copy does before it is measured


@dataclass(frozen=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    scorers: tuple[str, ...] = ("pickscore",)
    """Names from labelers/scorers.py, or module:function."""
    weights: tuple[str, ...] = ("world",)
    source: str = "infra/world/pairs"
    """Raw pairs; repeated until there are enough."""
    pairs: int = 16384
    """Pairs per round; one by one, an eighth of them."""
    batch_size: int = 32
    rounds: int = 3
    json: str | None = None
    """File for the figures."""


Work = Callable[[int, int], None]  # over rows from, to


def _batched(path: str, config: BenchmarkConfig) -> Work:
    table = pq.read_table(path)
    weights = scorers.weights_of(config.scorers, config.weights)
    score = ScoreRawPairs(pairs.pair_ids(table), config.scorers, weights, config.batch_size)
    return lambda start, end: score(table.slice(start, end - start)) and None


def _one_by_one(path: str, config: BenchmarkConfig) -> Work:
    table = pq.read_table(path, columns=["caption", "jpg_0", "jpg_1"])
    weights = scorers.weights_of(config.scorers, config.weights)
    selectors = [authors_loop.selector(name, weights[name]) for name in config.scorers]

    def work(start: int, end: int) -> None:
        for row in table.slice(start, end - start).to_pylist():
            for select in selectors:
                select(authors_loop.open_both(row), row["caption"])

    return work


def _process(make: Callable[..., Work], arguments: tuple[Any, ...], spans: list[tuple[int, int]], signals: Any) -> None:
    torch.set_num_threads(1)
    work = make(*arguments)
    ready, go, done = signals
    work(*spans[0])
    ready.release()
    go.wait()
    work(*spans[1])
    done.release()


def plain_processes(make: Callable[..., Work], path: str, config: BenchmarkConfig, first: int, count: int) -> float:
    """Score with plain processes, `first` pairs each unmeasured, then `count` between them; returns pairs/s."""
    share, arguments = count // COPIES, []
    for part in range(COPIES):
        start = part * (first + share)
        arguments.append((make, (path, config), [(start, start + first), (start + first, start + first + share)]))
    seconds = in_processes(_process, arguments)
    return share * COPIES / seconds


class TimedScoreRawPairs(ScoreRawPairs):
    """The step of the pass, which also notes who scored a batch and when it was done."""

    def batch(self, raw: pa.Table) -> pa.Table:
        """Add the columns process and done (seconds) to the scores."""
        scored = super().batch(raw)
        count = scored.num_rows
        scored = scored.append_column("process", pa.array([f"{os.getpid()}"] * count, pa.string()))
        return scored.append_column("done", pa.array([time.time()] * count, pa.float64()))


def through_ray(path: str, config: BenchmarkConfig, folder: str) -> float:
    """Score with relabel.py's pass; returns pairs/s from when each copy has scored BLOCK pairs to the last batch."""
    from labelers import scoring  # Ray reads the cluster's token when it is imported, so not before there is one
    from pipelines import engine

    engine.connect()
    raw, work = scoring.open_pairs(path, ""), tempfile.mkdtemp(dir=folder)
    speed = scoring.SpeedConfig(batch_size=config.batch_size, copies=COPIES, rows_per_file=BLOCK)
    weights = scorers.weights_of(config.scorers, config.weights)
    with mock.patch.object(scoring, "ScoreRawPairs", TimedScoreRawPairs):
        scored = scoring.score_pairs(raw, np.sort(raw.ids), config.scorers, weights, work, speed)
    done, process = scored["done"].to_numpy(), np.array(scored["process"].to_pylist())
    began = max(np.sort(done[process == one])[BLOCK - 1] for one in np.unique(process))
    return float((done > began).sum() / (done.max() - began))


def main(config: BenchmarkConfig) -> None:
    """Measure pairs/s of relabelling against a bare batched loop, and against scoring pairs one by one."""
    with tempfile.TemporaryDirectory() as folder, cluster.running(Path(folder) / "cluster.log") as surroundings:
        os.environ.update(surroundings)
        path, rest = f"{folder}/raw.parquet", config.pairs - COPIES * BLOCK
        pq.write_table(repeated_pairs(config.source, config.pairs), path, row_group_size=BLOCK)
        ways = {
            "ours": lambda: through_ray(path, config, folder),
            "bare": lambda: plain_processes(_batched, path, config, BLOCK, rest),
            "one by one": lambda: plain_processes(_one_by_one, path, config, 8, rest // 8),
        }
        samples = in_turns(ways, config.rounds, "pairs/s")
    middle = {name: median(values) for name, values in samples.items()}
    ratio, ratio_bare = middle["ours"] / middle["one by one"], middle["ours"] / middle["bare"]
    print(f"{ratio:.2f} x one by one; {ratio_bare:.3f} of the bare loop", flush=True)
    if config.json:
        told = {"ratio": ratio, "ratio_bare": ratio_bare, "samples": samples, "unit": "pairs/s", "pairs": config.pairs}
        text = json.dumps(told | {"scorers": config.scorers, "copies": COPIES}, indent=2)
        Path(files.resolve(config.json)).write_text(text + "\n")


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
