"""What batches and Ray make of scoring: `python infra/benchmarks/relabel.py --scorers pickscore`.

Ours: relabel.py's pass on a local cluster, a copy of the scorers for each of two cores. Against it, on the same pairs:
- one loop: the authors' way (infra/benchmarks/authors_loop.py), one process, one pair at a time, torch's default of a
  thread per core. `ratio` is ours over it.
- two loops: the same loop twice, side by side, one thread each, which the authors do not do. `ratio_copies`.
- bare: our steps and batches in two processes of one thread, no Ray. `ratio_bare`.
Ours and bare are measured once each copy has scored a file's worth of pairs ("once it runs"), ours by the time at which
each batch is done: files come later, in bursts.
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

from infra.base import cli, files, tables
from infra.base.places import PathText
from infra.benchmarks import authors_loop
from infra.benchmarks.encode import repeated_pairs
from infra.benchmarks.measure import in_processes, in_turns, median
from infra.local import cluster
from labelers.scoring import scorers
from labelers.scoring.pair_scores import ScoreRawPairs
from pipelines.raw import pairs

CORES = 2  # copies of ours and of the bare loop, threads of the one loop
BLOCK = 2048  # pairs per file, the published preset's: what each copy does before it is measured


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    scorers: tuple[str, ...] = ("pickscore",)
    """Names from labelers/scoring/scorers.py, or module:function."""
    weights: tuple[str, ...] = ("world",)
    source: str = "infra/world/pairs"
    """Raw pairs; repeated until there are enough."""
    pairs: int = 32768
    """Pairs per round; one by one, an eighth of them."""
    batch_size: int = 64
    rounds: int = 3
    json: PathText | None = None
    """File for the figures."""


Work = Callable[[int, int], None]  # over rows from, to


def _batched(path: str, config: BenchmarkConfig) -> Work:
    table = tables.read([path])
    weights = scorers.weights_of(config.scorers, config.weights)
    score = ScoreRawPairs(pairs.pair_ids(table), config.scorers, weights, config.batch_size)
    return lambda start, end: score(table.slice(start, end - start)) and None


def _one_by_one(path: str, config: BenchmarkConfig) -> Work:
    table = tables.read([path], ["caption", "jpg_0", "jpg_1"])
    weights = scorers.weights_of(config.scorers, config.weights)
    selectors = [authors_loop.selector(name, weights[name]) for name in config.scorers]

    def work(start: int, end: int) -> None:
        for row in table.slice(start, end - start).to_pylist():
            for select in selectors:
                select(authors_loop.open_both(row), row["caption"])

    return work


def _process(
    make: Callable[..., Work], arguments: tuple[Any, ...], threads: int, spans: list[tuple[int, int]], signals: Any
) -> None:
    torch.set_num_threads(threads)
    work = make(*arguments)
    ready, go, done = signals
    work(*spans[0])
    ready.release()
    go.wait()
    work(*spans[1])
    done.release()


def plain_processes(
    make: Callable[..., Work], path: str, config: BenchmarkConfig, first: int, count: int, processes: int = CORES
) -> float:
    """Score with plain processes that share the cores, and return pairs/s.

    Args:
        first: pairs that each scores unmeasured.
        count: measured pairs, of all processes together.
    """
    share = count // processes
    arguments = []
    for part in range(processes):
        start = part * (first + share)
        spans = [(start, start + first), (start + first, start + first + share)]
        arguments.append((make, (path, config), CORES // processes, spans))
    seconds = in_processes(_process, arguments)
    return share * processes / seconds


class TimedScoreRawPairs(ScoreRawPairs):
    """The step of the pass, which also notes who scored a batch and when it was done."""

    def batch(self, raw: pa.Table) -> pa.Table:
        """Add the columns process and done (seconds) to the scores."""
        scored = super().batch(raw)
        count = scored.num_rows
        scored = scored.append_column("process", pa.array([f"{os.getpid()}"] * count, pa.string()))
        return scored.append_column("done", pa.array([time.time()] * count, pa.float64()))


def through_ray(path: str, config: BenchmarkConfig, folder: str) -> float:
    """Score with relabel.py's pass and return pairs/s, from when each copy has scored BLOCK pairs to the last batch."""
    # Ray reads the cluster's token when it is imported, so the import waits until there is one.
    from labelers.scoring import scoring_pass
    from pipelines.engine import choose

    choose.connect("--copies", CORES)
    raw = scoring_pass.open_pairs(path, "")
    work = tempfile.mkdtemp(dir=folder)
    speed = scoring_pass.SpeedConfig(batch_size=config.batch_size, copies=CORES, rows_per_file=BLOCK)
    weights = scorers.weights_of(config.scorers, config.weights)
    with mock.patch.object(scoring_pass, "ScoreRawPairs", TimedScoreRawPairs):
        scoring_pass.score_pairs(raw, np.sort(raw.ids), config.scorers, weights, work, speed)
    scored = scoring_pass.read_scores(raw.ids, work)
    done = scored["done"].to_numpy()
    process = np.array(scored["process"].to_pylist())
    began = max(np.sort(done[process == one])[BLOCK - 1] for one in np.unique(process))
    return float((done > began).sum() / (done.max() - began))


def main(config: BenchmarkConfig) -> None:
    """Measure pairs/s of relabelling against scoring pairs one by one, in two readings, and against a bare loop."""
    with tempfile.TemporaryDirectory() as folder, cluster.running(Path(folder) / "cluster.log") as surroundings:
        os.environ.update(surroundings)
        path = f"{folder}/raw.parquet"
        rest = config.pairs - CORES * BLOCK
        pq.write_table(repeated_pairs(config.source, config.pairs), path, row_group_size=BLOCK)
        ways = {
            "ours": lambda: through_ray(path, config, folder),
            "bare": lambda: plain_processes(_batched, path, config, BLOCK, rest),
            "one loop": lambda: plain_processes(_one_by_one, path, config, 8, rest // 8, processes=1),
            "two loops": lambda: plain_processes(_one_by_one, path, config, 8, rest // 8),
        }
        samples = in_turns(ways, config.rounds, "pairs/s")
    middle = {name: median(values) for name, values in samples.items()}
    others = {"ratio": "one loop", "ratio_copies": "two loops", "ratio_bare": "bare"}
    ratios = {key: middle["ours"] / middle[name] for key, name in others.items()}
    print(
        f"{ratios['ratio']:.2f} x the authors' loop, one process of {CORES} threads, one pair at a time; "
        f"{ratios['ratio_copies']:.2f} x two such loops side by side, one thread each; "
        f"{ratios['ratio_bare']:.3f} of the bare loop",
        flush=True,
    )
    if config.json:
        facts = {
            "samples": samples,
            "unit": "pairs/s",
            "pairs": config.pairs,
            "batch_size": config.batch_size,
            "scorers": config.scorers,
            "copies": CORES,
        }
        text = json.dumps(ratios | facts, indent=2)
        Path(files.resolve(config.json)).write_text(text + "\n")


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
