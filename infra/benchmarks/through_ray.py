"""Time and CPU of a cluster of the command's own: `python infra/benchmarks/through_ray.py --against FOLDER`.

Each side is a checkout with an environment of its own in .venv; FOLDER is the other one. Both encode the same pairs and
then train on what they encoded until the first step is noted, on clusters that they start themselves, in turns. CPU is
that of all processes, the cluster's too.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from infra.base import cli, files
from infra.base.errors import UserError, check_least
from infra.base.places import PathText
from infra.benchmarks.measure import median
from infra.benchmarks.start_up import OTHER, OURS, Side

MARK = "DPO_BENCHMARK"  # in the environment of a command and all that it starts
LOOK = 0.1  # seconds between looks at the processes
MODEL = "infra/world/model"
BATCH = ("--global-batch", "32", "--micro-batch", "16")
HEAD = "| Case | Seconds | other | ratio | CPU, s | other | ratio |"


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    against: PathText
    """Folder of the other checkout, which has its environment in .venv."""
    source: PathText = "infra/world/pairs"
    """Raw pairs that both encode and train on."""
    workers: tuple[int, ...] = (1, 2)
    """Numbers of workers to train with."""
    rounds: int = 3
    """How often each side does everything; the table has the medians."""
    json: PathText | None = None
    """File for the figures."""


@dataclass(frozen=True)
class Taken:
    """What a command took until it was done, or its first step was."""

    seconds: float
    cpu: float  # seconds of all processes, user and system
    processes: Mapping[str, float]  # the CPU by what runs in them


def take(command: Sequence[str], root: Path, log: Path, until: Path | None = None) -> Taken:
    """Run a command to its end, and return what it took until a file had content; by default until the end.

    Raises:
        UserError: if it fails, or never writes that file.
    """
    mark = uuid.uuid4().hex
    dropped = ("RAY_ADDRESS", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    surroundings = kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", MARK: mark}
    started = time.perf_counter()
    taken: Taken | None = None
    processes = _Processes(mark)
    with log.open("wb") as out:
        running = subprocess.Popen(command, cwd=root, env=surroundings, stdout=out, stderr=out)
        while running.poll() is None:
            processes.look()
            if taken is None and until is not None and until.is_file() and until.stat().st_size:
                taken = processes.taken(time.perf_counter() - started)
            time.sleep(LOOK)
    whole = processes.taken(time.perf_counter() - started)
    if running.returncode or (until and taken is None):
        raise UserError(f"{' '.join(command)}: exited {running.returncode}\n{log.read_text()[-2000:]}")
    return taken or whole


class _Processes:
    """A command's processes, known by a mark in their environment, and the CPU that each had taken when last seen."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.known: dict[int, psutil.Process | None] = {}  # None: of somebody else
        self.cpu: dict[int, float] = {}
        self.names: dict[int, str] = {}

    def look(self) -> None:
        for pid in psutil.pids():
            try:
                if pid not in self.known:
                    process = psutil.Process(pid)
                    self.known[pid] = process if process.environ().get(MARK) == self.mark else None
                known = self.known[pid]
                if known is not None:
                    used = known.cpu_times()
                    self.cpu[pid] = used.user + used.system
                    self.names[pid] = name_of(known.cmdline()) or self.names.get(pid, "")
            except psutil.AccessDenied:
                self.known[pid] = None
            except psutil.NoSuchProcess:  # it ended meanwhile
                continue

    def taken(self, seconds: float) -> Taken:
        """Sum up what was taken by now."""
        by_name: dict[str, float] = {}
        for pid, cpu in self.cpu.items():
            by_name[self.names[pid]] = round(by_name.get(self.names[pid], 0.0) + cpu, 2)
        return Taken(seconds, sum(self.cpu.values()), by_name)


def name_of(words: Sequence[str]) -> str:
    """Name what a process runs: a script, one of Ray's titles, or a program."""
    script = next((word for word in words[1:] if word.endswith(".py")), "")
    return Path(script or (words[0] if words else "")).name.removesuffix(".py") if words else ""


def cases(side: Side, config: BenchmarkConfig, folder: Path) -> dict[str, Taken]:
    """Have a side encode the pairs and train on them; return what each took."""
    engine = ["--engine", "ray"] if side.root == files.ROOT else []  # the other one may know no other engine
    log = folder / "log"
    store = str(folder / "store")
    given = ["--source", str(files.resolve(config.source)), "--model", MODEL, "--store", store]
    taken = {"encode": take([side.python, "pipelines/encode_latents.py", *given, *engine], side.root, log)}
    for workers in config.workers:
        run = folder / f"run-{workers}"
        asked = ["--store", store, "--model", MODEL, "--output", str(run), "--workers", str(workers), "--steps", "2"]
        command = [side.python, "training/train_dpo.py", *asked, *BATCH, *engine]
        taken[f"first step, workers {workers}"] = take(command, side.root, log, run / "metrics.jsonl")
    return taken


def main(config: BenchmarkConfig) -> None:
    """Measure encoding and the first step of training on a cluster of the command's own, against another checkout."""
    check_least(config, {"rounds": 1})
    other = Path(files.resolve(config.against))
    if not (other / "training" / "train_dpo.py").is_file():
        raise UserError(f"--against {config.against}: no checkout of this project")
    samples: dict[str, dict[str, list[Taken]]] = {}
    with tempfile.TemporaryDirectory(prefix="through-ray-") as name:
        sides = {OURS: Side(files.ROOT, Path(name)), OTHER: Side(other, Path(name))}
        for number in range(config.rounds):
            for side in list(sides)[:: 1 if number % 2 else -1]:
                folder = Path(name) / f"{side}-{number}"
                folder.mkdir()
                for case, taken in cases(sides[side], config, folder).items():
                    samples.setdefault(case, {}).setdefault(side, []).append(taken)
                    print(f"{side}: {case} {taken.seconds:.1f} s, CPU {taken.cpu:.1f} s", flush=True)
    report(samples, config)


def report(samples: Mapping[str, Mapping[str, Sequence[Taken]]], config: BenchmarkConfig) -> None:
    """Print the table of medians, and write it to the file of --json."""
    rows = {}
    print(f"{HEAD}\n|{'---|' * (HEAD.count('|') - 1)}")
    for case, by_side in samples.items():
        seconds = {side: median([one.seconds for one in taken]) for side, taken in by_side.items()}
        cpu = {side: median([one.cpu for one in taken]) for side, taken in by_side.items()}
        ratios = {"ratio": seconds[OURS] / seconds[OTHER], "cpu_ratio": cpu[OURS] / cpu[OTHER]}
        processes = {side: taken[-1].processes for side, taken in by_side.items()}
        rows[case] = {**ratios, "seconds": seconds, "cpu": cpu, "processes": processes}
        print(
            f"| {case} | {seconds[OURS]:.1f} | {seconds[OTHER]:.1f} | {ratios['ratio']:.2f} "
            f"| {cpu[OURS]:.1f} | {cpu[OTHER]:.1f} | {ratios['cpu_ratio']:.2f} |"
        )
    if config.json:
        figures = {"cases": rows, "config": asdict(config)}
        Path(files.resolve(config.json)).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
