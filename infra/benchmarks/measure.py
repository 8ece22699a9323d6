"""Alternating measurement of two ways to do the same work, as a table and as JSON."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any


def in_processes(target: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> float:
    """Run one process per tuple of arguments and return the seconds from when all are ready to when all are done.

    Args:
        target: called with its arguments and (ready, go, done): releases ready, waits for go, works, releases done.
    """
    context = multiprocessing.get_context("spawn")
    ready = context.Semaphore(0)
    go = context.Event()
    done = context.Semaphore(0)
    workers = [context.Process(target=target, args=(*each, (ready, go, done))) for each in arguments]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    started = time.perf_counter()
    go.set()
    for _ in workers:
        done.acquire()
    seconds = time.perf_counter() - started
    for worker in workers:
        worker.join()
    return seconds


def in_turns(ways: Mapping[str, Callable[[], float]], rounds: int, unit: str) -> dict[str, list[float]]:
    """Measure several ways to do the same work in turns, forwards and backwards, after one unmeasured turn each.

    Args:
        ways: each does a fixed amount of work once and returns its throughput in unit; higher is better.

    Returns:
        Each way's throughput in every round.
    """
    for measure in ways.values():
        measure()
    samples: dict[str, list[float]] = {name: [] for name in ways}
    print(f"{'round':>5}  " + "  ".join(f"{name:>12}" for name in ways) + f"   ({unit})", flush=True)
    for number in range(1, rounds + 1):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            samples[name].append(ways[name]())
        print(f"{number:>5}  " + "  ".join(f"{samples[name][-1]:>12.2f}" for name in ways), flush=True)
    return samples


def alternate(
    ours: Callable[[], float], bare: Callable[[], float], rounds: int, unit: str, json_path: str | None, **facts: Any
) -> float:
    """Measure ours and bare in turns and report the ratio of their medians.

    Args:
        json_path: file for {"ratio", "samples", "unit"} and the facts, or None.

    Returns:
        The ratio of the medians, ours over bare: 1 means no overhead.
    """
    samples = in_turns({"ours": ours, "bare": bare}, rounds, unit)
    ratio = median(samples["ours"]) / median(samples["bare"])
    print(f"ratio of medians {ratio:.3f}", flush=True)
    if json_path:
        pairs = list(zip(samples["ours"], samples["bare"], strict=True))
        Path(json_path).write_text(
            json.dumps({"ratio": ratio, "samples": pairs, "unit": unit, **facts}, indent=2) + "\n"
        )
    return ratio


def median(values: list[float]) -> float:
    """Return the median."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
