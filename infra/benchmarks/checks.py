"""What the checks of files cost of a whole run: `python infra/benchmarks/checks.py --json checks.json`.

It measures how fast one core hashes, and counts by these rates what a run of SD1.5 over Pick-a-Pic's kept pairs hashes:
at its start, of each row that a rank reads, and at its end. The run's own seconds are its FLOPs at an accelerator's
peak and a utilisation. What hashes beside the steps, on the thread that writes checkpoints, is counted apart.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import xxhash

from infra.base import cli, files
from infra.base.accelerators import ACCELERATORS, Name
from infra.benchmarks.measure import in_turns, median

MEASURED = 1 << 28  # bytes of a turn
PAIRS = 851_293  # Pick-a-Pic v2's kept pairs
CAPTIONS = 58_961
INDEX_ROWS = 24 * PAIRS + 20 * CAPTIONS  # bytes; pipelines/latents/addresses.py
LABELS = 7 * 10**6  # bytes of the people's label set
ROW = 2 * 4 * 64 * 64 * 2 + 77 * 768 * 2  # bytes of a pair's latents and its caption's embedding
CHECKPOINT = 10.3e9  # bytes: float32 weights and AdamW's two moments of 860 million parameters
RESULT = 5.5e9  # bytes: the diffusers folder
FLOPS = 26.3e18  # of 2,000 steps of 2,048 pairs, by --dry-run


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    accelerator: Name = "h100"
    """Of the counted run."""
    workers: int = 16
    """Of the counted run."""
    utilisation: float = 0.4
    """Share of the accelerator's peak that the counted run reaches."""
    steps: int = 2000
    global_batch: int = 2048
    checkpoints: int = 10
    """That the counted run writes."""
    rounds: int = 5
    json: str | None = None
    """File for the figures."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Bytes that one core hashes in a second."""

    sha256: float
    xxh3: float


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds of a run, and of its checks."""

    run: float
    start: float  # index and label set, on every rank at once
    rows: float  # those that one rank reads
    end: float  # the best checkpoint before it is loaded, and the result for its facts
    beside: float  # checkpoints, on the writing thread

    @property
    def share(self) -> float:
        """Return the checks' seconds that a run waits for over its own."""
        return (self.start + self.rows + self.end) / self.run


def count(config: BenchmarkConfig, rates: Rates) -> Costs:
    """Count the seconds of a run's checks."""
    peak = ACCELERATORS[config.accelerator].peak * 1e12
    flops = FLOPS * config.steps / 2000 * config.global_batch / 2048
    rows = config.steps * config.global_batch / config.workers
    return Costs(
        run=flops / (config.workers * peak * config.utilisation),
        start=INDEX_ROWS / rates.xxh3 + LABELS / rates.sha256,
        rows=rows * ROW / rates.xxh3,
        end=(CHECKPOINT + RESULT) / rates.sha256,
        beside=config.checkpoints * CHECKPOINT / rates.sha256,
    )


def main(config: BenchmarkConfig) -> None:
    """Measure the rates, count the costs, and print them."""
    content = os.urandom(MEASURED)
    row = content[:ROW]

    def timed(work: Callable[[], object], size: int) -> float:
        started = time.perf_counter()
        work()
        return size / (time.perf_counter() - started) / 1e9

    def rows() -> None:
        for _ in range(MEASURED // ROW):
            xxhash.xxh3_64_intdigest(row)

    ways = {
        "sha256": lambda: timed(lambda: hashlib.sha256(content), MEASURED),
        "xxh3": lambda: timed(rows, MEASURED // ROW * ROW),
    }
    measured = {name: median(rounds) for name, rounds in in_turns(ways, config.rounds, "GB/s").items()}
    costs = count(config, Rates(sha256=measured["sha256"] * 1e9, xxh3=measured["xxh3"] * 1e9))
    for name, seconds in asdict(costs).items():
        print(f"{name:<8}{seconds:>10.2f} s")
    print(f"the checks that a run waits for are {costs.share:.2%} of it")
    if config.json:
        files.write_json(files.resolve(config.json), {"GB/s": measured, **asdict(costs), "share": costs.share})


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
