"""The plan's lost work against runs that are really killed: `python infra/benchmarks/plan_kills.py`.

The embedded world's model on a store of random pairs, through train_dpo.py's main function without Ray, a process an
attempt. Each is killed by SIGKILL in a step of its own choice, at exponentially distributed gaps, and the same run is
begun again, until it is finished. infra/planning/fleet.py is asked for the same: once with the very gaps, once
for its mean.

Time is counted in steps, which other work on the machine does not stretch: a step is 1, a restart 0, and a checkpoint
is complete as many steps after its own as it was in a run that nothing killed.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import tempfile
from dataclasses import asdict, dataclass, replace
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from random import Random
from typing import Any

import torch

from infra.base import cli, files, models
from infra.base.errors import UserError
from infra.base.places import PathText
from infra.benchmarks.measure import median
from infra.benchmarks.random_store import write_store
from infra.planning import fleet
from infra.planning.fleet import Fleet, Outcome, Training
from pipelines.latents import kinds, store
from training.checkpoints import checkpoint
from training.checkpoints.run_folder import STEPS, read_notes
from training.run import loop, train_dpo
from training.run.assembly import Rank
from training.settings.config import DataConfig, TrainConfig

FORK = multiprocessing.get_context("fork")  # what is imported is imported once
REPETITIONS = 20_000  # of the plan's mean


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the check."""

    steps: int = 60
    every: int = 5
    """Steps between checkpoints."""
    mean_gap: float = 12.0
    """Steps between kills on average."""
    runs: int = 4
    seed: int = 0
    """Of the gaps, as --seed of infra/plan.py."""
    json: PathText | None = None
    """File for the figures."""


@dataclass(frozen=True)
class Killed:
    """What a run came to, in steps."""

    gaps: list[float]  # from each attempt's start to its kill
    lost: list[float]  # of each kill: work done again, with the part of a step that it cut short
    taken: int  # steps, those that were taken again among them
    losses: list[float]  # of each step, as the run noted it in the end


def attempt(config: TrainConfig, last: float, taken: Synchronized[int], waits: Synchronized[float]) -> None:
    """Begin a run, or go on with it, and be killed in the step after `last` whole ones of this attempt.

    Args:
        taken: counts steps.
        waits: has the seconds until the last checkpoint was complete.
    """
    here = 0

    def stepped(_: dict[str, Any]) -> None:
        nonlocal here
        here += 1
        if here > last:
            os.kill(os.getpid(), signal.SIGKILL)
        taken.value += 1

    def complete(note: dict[str, float]) -> None:
        waits.value = note["seconds"]

    torch.set_num_threads(1)
    rank = Rank(on_step=stepped, on_checkpoint=complete)
    train_dpo.main(config, lambda settings, _: loop.train(settings, rank))


def begin(config: TrainConfig, last: float) -> tuple[bool, int, float]:
    """Make one attempt; return whether it finished, its steps, and the seconds of its last checkpoint.

    Raises:
        UserError: if it ended otherwise.
    """
    taken = FORK.Value("q", 0)
    waits = FORK.Value("d", 0.0)
    process = FORK.Process(target=attempt, args=(config, last, taken, waits))
    process.start()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise UserError(
            f"{config.output}: an attempt ended by itself with exit code {process.exitcode}; see its output above"
        )
    return process.exitcode == 0, taken.value, waits.value


def follow(config: TrainConfig, mean_gap: float, random: Random) -> Killed:
    """Kill a run again and again until it is finished."""
    gaps: list[float] = []
    lost: list[float] = []
    taken = 0
    before = 0
    while True:
        gap = random.expovariate(1 / mean_gap)  # as infra/planning/fleet.py asks for it
        finished, steps, _ = begin(config, math.floor(gap))
        taken += steps
        if finished:
            return Killed(gaps=gaps, lost=lost, taken=taken, losses=_losses(config))
        now = max(checkpoint.complete_steps(config.output), default=0)
        gaps.append(gap)
        lost.append(gap - (now - before))
        before = now


def _losses(config: TrainConfig) -> list[float]:
    return [row["loss"] for row in read_notes(config.output, STEPS)]


def write_pairs(path: str) -> None:
    """Write a store of random pairs that passes for one that the embedded world's model encoded."""
    write_store(Path(path), 256, (4, 8, 8), {"text_encoder": (16, 64)})
    model = models.Model(TrainConfig().model).folder()
    manifest = files.join(path, store.MANIFEST)
    fingerprints = {part: models.fingerprint(model, part) for part in kinds.kind_of(model).frozen(with_sized=False)}
    files.write_json(manifest, files.read_json(manifest) | {"fingerprints": fingerprints})


def compare(config: BenchmarkConfig, run: Training, killed: list[Killed]) -> dict[str, Any]:
    """Put the runs' means beside the plan's: for the same gaps, over many, and Daly's formula for the whole time."""
    nodes = Fleet(1, mtbf=config.mean_gap)

    def simulate(random: Random) -> Outcome:
        return fleet.simulate_training(run, nodes, random)

    count = len(killed)
    same = fleet.repeated(simulate, count, config.seed)
    mean = fleet.repeated(simulate, REPETITIONS, config.seed)
    return {
        "write": run.write,
        "measured": {
            "kills": sum(len(one.gaps) for one in killed) / count,
            "lost": sum(sum(one.lost) for one in killed) / count,
            "steps": config.steps + sum(sum(one.lost) for one in killed) / count,
        },
        "same gaps": {"kills": same.failures, "lost": same.lost, "steps": same.seconds},
        "mean": {"kills": mean.failures, "lost": mean.lost, "steps": mean.seconds},
        "daly": fleet.expected_training(run, nodes),
    }


def main(config: BenchmarkConfig) -> None:
    """Compare lost steps and kills of really killed runs with what the plan's simulation says of them."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pairs(str(folder / "store"))
        data = DataConfig(store=str(folder / "store"), cache=str(folder / "cache"), global_batch=4, micro_batch=4)
        base = replace(TrainConfig(data=data), steps=config.steps, checkpoint_every=config.every)
        clean = replace(base, output=str(folder / "clean"))
        _, _, seconds = begin(clean, math.inf)
        write = seconds / median([row["seconds"] for row in read_notes(clean.output, STEPS)])
        killed = []
        for number in range(config.runs):
            run = replace(base, output=str(folder / f"run-{number}"))
            killed.append(follow(run, config.mean_gap, Random(f"{config.seed}:{number}")))
            print(f"run {number}: {len(killed[-1].gaps)} kills, {sum(killed[-1].lost):.1f} steps lost", flush=True)
        exact = all(one.losses == _losses(clean) for one in killed)
    planned = Training(
        steps=config.steps,
        every=config.every,
        step=lambda _: 1.0,
        copy=0.0,
        write=write,
        judge=0.0,
        restart=0.0,
        least=1,
    )
    figures = compare(config, planned, killed)
    for row in ("measured", "same gaps", "mean"):
        print(f"{row:>10}: " + ", ".join(f"{name} {value:.2f}" for name, value in figures[row].items()))
    print(f"Daly: {figures['daly']:.2f} steps; a checkpoint is complete {write:.2f} steps after its own")
    print(f"losses of every step as in the run that nothing killed: {'yes' if exact else 'NO'}", flush=True)
    if config.json:
        runs = {"exact": exact, "runs": [asdict(one) for one in killed], "config": asdict(config)}
        files.write_json(files.resolve(config.json), figures | runs)


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
