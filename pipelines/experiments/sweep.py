"""Train, draw and judge trials that share stores and reference errors: `python pipelines/sweep.py --file FILE`.

The file lists the seeds and the trials; a trial names the flags of train_dpo.py in which it differs from the others.
Every trial is trained once per seed. All judges score its images of the prompts, and the base's from the same start
noise. A trial of one worker runs in one task, and as many tasks run at once as the cluster holds. A trial of several
workers starts Ray Train from its task. A trial that fails does not stop the others, and the same command again goes on
from there.

The output folder holds base/images, NAME/seed-S/{train,images}, and sweep.json, which is written last.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from infra.base import engines, files, next_step, object_storage, one_writer, records
from infra.base.config_files import save_config
from infra.base.errors import UserError
from infra.base.result_files import FACTS, read_facts
from infra.base.verifying import refusals
from labelers.scoring import scorers
from pipelines.drawing import generate, generate_config
from pipelines.drawing.prompts import read_prompts
from pipelines.engine import ray_cluster, shares
from pipelines.engine.jobs import SMALL_CPUS
from pipelines.experiments.sweep_config import SweepConfig
from pipelines.experiments.sweep_done import DONE, TRAINED, read_done
from pipelines.experiments.sweep_trials import Sweep, Trial, make_trials, read_sweep
from pipelines.judging import score
from pipelines.judging.comparison import compare, read_drawn
from pipelines.reports.judges import judge_titles
from training.checkpoints import run_check
from training.checkpoints.run_folder import RESULT
from training.run import train_dpo
from training.run.alone import train_alone
from training.run.preflight import check_config

SCHEMA_VERSION = 1
LOST_SECONDS = "the sweep then knows no seconds of parts that are finished"
Seconds = dict[str, float | None]  # by part of a trial


@next_step.of_another_command()
def run_trial(trial: Trial) -> Seconds:
    """Train, draw and score one trial, or what is left of it, and return the seconds of each part.

    A part that was interrupted has None: the seconds of its last attempt would leave out the earlier ones.
    """
    alone = trial.train is None or trial.train.workers == 1
    parts: dict[str, Callable[[], None]] = {
        "draw": lambda: generate.main(trial.draw),
        "score": lambda: score.main(trial.score),
    }
    config = trial.train
    if config is not None:
        parts = {"train": lambda: train_dpo.main(config, train_alone if alone else None)} | parts
    noted = files.resolve(trial.seconds)
    seconds: Seconds = read_seconds(noted) if files.exists(noted) else {}
    for name, work in parts.items():
        begun = name in seconds
        started = time.perf_counter()
        if not begun:
            seconds[name] = None
            files.write_json(noted, seconds)
        with engines.asking("local" if alone else "ray"):
            work()  # a finished part returns at once, and refuses other settings
        if not begun:
            seconds[name] = time.perf_counter() - started
            files.write_json(noted, seconds)
    return seconds


def read_seconds(path: str) -> Seconds:
    """Read how many seconds each part of a trial took.

    Raises:
        UserError: if the file is torn, or another file's content.
    """
    return records.read_record(path, remedy=f"delete it: {LOST_SECONDS}")


def main(config: SweepConfig) -> None:
    """Train many trials side by side over shared stores, and judge each against the base."""
    sweep = read_sweep(config.file)
    output = files.resolve(config.output)
    object_storage.check("--output", output)
    trials = make_trials(sweep, config.output)
    for trial in trials:
        check_trial(trial)
    with one_writer.writer_lock(output):
        save_config(output, config)
        ray_cluster.connect()
        seconds = run_all(trials, config.cpus_per_trial)
        files.write_json(files.join(output, DONE), gather(sweep, trials, seconds) | {"config": asdict(config)})
    print(f"\n{table(sweep, trials)}\n{files.join(output, DONE)}", flush=True)


def verify(config: SweepConfig) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong with the trials' runs, images and scores."""
    done = files.join(files.resolve(config.output), DONE)
    if files.exists(done):
        yield from refusals(partial(read_done, done))
    for trial in make_trials(read_sweep(config.file), config.output):
        noted = files.resolve(trial.seconds)
        if files.exists(noted):
            yield from refusals(partial(read_seconds, noted))
        if trial.train is not None and files.exists(files.resolve(trial.train.output)):
            yield from run_check.problems(files.resolve(trial.train.output))
        if files.exists(files.resolve(trial.draw.output)):
            yield from score.verify(trial.score)


def check_trial(trial: Trial) -> None:
    """Refuse, before any trial starts, settings that a part of the trial would refuse.

    Raises:
        UserError: naming the trial and the flag.
    """
    try:
        generate_config.check_config(trial.draw)
        captions = read_prompts(files.resolve(trial.draw.prompts))[: trial.draw.limit]
        for name, weights in scorers.weights_of(trial.score.scorers, trial.score.weights).items():
            scorers.check(name, weights, captions)
        if trial.train is not None:
            check_config(trial.train)
    except UserError as error:
        raise UserError(f"{trial.name}, seed {trial.seed}: {error}") from error


def run_all(trials: list[Trial], cpus: float) -> list[Seconds]:
    """Run trials side by side and return the seconds of each.

    Raises:
        UserError: when all have ended, naming each trial that failed and why.
    """
    gpus = shares.share(ray_cluster.device_count()).gpus
    seconds: list[Seconds] = [{} for _ in trials]
    failed: list[str] = []
    large = [place for place, trial in enumerate(trials) if trial.train is not None and trial.train.workers > 1]
    small = [place for place in range(len(trials)) if place not in large]
    for places, needs in ((small, (cpus, gpus)), (large, (SMALL_CPUS, 0.0))):
        results = ray_cluster.side_by_side(run_trial, [trials[place] for place in places], *needs)
        for ended, (place, result) in enumerate(results, 1):
            trial = trials[places[place]]
            if isinstance(result, Exception):
                failed.append(f"{trial.name}, seed {trial.seed}: {result}")
            else:
                seconds[places[place]] = result
            print(f"[{ended} of {len(places)}] {trial.name}, seed {trial.seed}", flush=True)
    if failed:
        raise UserError(f"{len(failed)} of {len(trials)} trials failed, the others are finished: {'; '.join(failed)}")
    return seconds


def gather(sweep: Sweep, trials: list[Trial], seconds: list[Seconds]) -> dict[str, Any]:
    """Gather what the report needs: folders, commands, seconds, and how many trials share a store and its errors."""
    stores = Counter[str]()
    errors: dict[str, Counter[str]] = {}
    rows: list[dict[str, Any]] = []
    for trial, took in zip(trials, seconds, strict=True):
        config = trial.train
        if config is None:
            continue
        stores[config.data.store] += 1
        if config.data.reference:
            errors.setdefault(config.data.store, Counter())[config.data.reference] += 1
        result = files.join(files.resolve(config.output), RESULT)
        best = read_facts(result)["best_step"]
        rows.append(
            {"name": trial.name, "seed": trial.seed, **trial.commands, "train": config.output,
             "images": trial.draw.output, "best_step": best, "seconds": took,
             TRAINED: files.sha256(files.join(result, FACTS))}
        )  # fmt: skip
    return {
        "schema_version": SCHEMA_VERSION,
        "base": {"model": trials[0].draw.model, "images": trials[0].draw.output, "seconds": seconds[0]},
        "judges": list(sweep.scorers),
        "seeds": list(sweep.seeds),
        "trials": rows,
        "sharing": {"store": stores, "reference": errors},
    }


def table(sweep: Sweep, trials: list[Trial]) -> str:
    """Lay out each trial's win rate over the base by each judge: mean over the seeds, and range."""
    base = read_drawn(trials[0].draw.output)
    width = max(map(len, sweep.trials))
    titles = judge_titles(trials[0].draw.output, sweep.scorers)
    lines = [f"{'trial':<{width}}" + "".join(f"{titles[judge]:>28}" for judge in sweep.scorers)]
    for name in sweep.trials:
        compared = [compare(read_drawn(trial.draw.output), base) for trial in trials if trial.name == name]
        cells = []
        for judge in sweep.scorers:
            rates = np.array([one[judge]["win_rate"]["value"] for one in compared])
            cells.append(f"{rates.mean():.3f} ({rates.min():.3f} to {rates.max():.3f})")
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>28}" for cell in cells))
    seeds = len(sweep.seeds)
    return "\n".join([*lines, f"win rate over the base; mean of {seeds} seed{'s' * (seeds > 1)} (least to most)"])
