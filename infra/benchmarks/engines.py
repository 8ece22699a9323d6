"""Time, CPU and memory in one process and through Ray: `python infra/benchmarks/engines.py --against FOLDER`.

Each side is a checkout with an environment of its own in .venv; FOLDER is the other one. Both encode the same pairs and
then train on what they encoded, on clusters that they start themselves, in turns. Ours does so by each engine, and each
is compared with the other side. CPU and memory are those of all processes, the cluster's too.
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
from typing import Any

import psutil

from infra.base import cli, files
from infra.base.errors import UserError, check_least
from infra.base.places import PathText
from infra.benchmarks.measure import median
from infra.benchmarks.start_up import OTHER, OURS, Side

MARK = "DPO_BENCHMARK"  # in the environment of a command and all that it starts
LOOK = 0.1  # seconds between looks at the processes
LOOKS_AT_MEMORY = 30  # every so many: the kernel adds up all pages for an answer, which slows twenty processes down
ENGINES = ("local", "ray")
MODEL = "infra/world/model"
TRAINING = ("--workers", "1", "--steps", "14", "--global-batch", "32", "--micro-batch", "16")
FIRST = "first step"
WHOLE = "whole"
HEAD = "| Case | Seconds | other | ratio | CPU, s | other | ratio | Memory, MB | other | ratio |"


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    against: PathText
    """Folder of the other checkout, which has its environment in .venv."""
    source: PathText = "infra/world/pairs"
    """Raw pairs that both encode and train on."""
    rounds: int = 3
    """How often each side does everything; the table has the medians."""
    json: PathText | None = None
    """File for the figures."""


@dataclass(frozen=True)
class Taken:
    """What a command took until it was done, or its first step was."""

    seconds: float
    cpu: float  # seconds of all processes, user and system
    memory: float  # MB of all processes at once, a page that several share counted once (PSS); the most that was seen
    processes: Mapping[str, float]  # the CPU by what runs in them


def take(command: Sequence[str], root: Path, log: Path, first: Path | None = None) -> dict[str, Taken]:
    """Run a command to its end, and return what that took, and until a file had content.

    Args:
        first: the file that the first step is noted in; None where there are no steps.

    Raises:
        UserError: if it fails, or never writes that file.
    """
    mark = uuid.uuid4().hex
    dropped = ("RAY_ADDRESS", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    surroundings = kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", MARK: mark}
    started = time.perf_counter()
    taken: dict[str, Taken] = {}
    processes = Processes(mark)
    with log.open("wb") as out:
        running = subprocess.Popen(command, cwd=root, env=surroundings, stdout=out, stderr=out)
        while running.poll() is None:
            processes.look()
            if FIRST not in taken and _has_content(first):
                taken[FIRST] = processes.taken(time.perf_counter() - started)
            time.sleep(LOOK)
    taken[WHOLE] = processes.taken(time.perf_counter() - started)
    if _has_content(first):
        taken.setdefault(FIRST, taken[WHOLE])
    if running.returncode or (first and FIRST not in taken):
        raise UserError(f"{' '.join(command)}: exited {running.returncode}\n{log.read_text()[-2000:]}")
    return taken


def _has_content(file: Path | None) -> bool:
    return file is not None and file.is_file() and file.stat().st_size > 0


class Processes:
    """A command's processes, known by a mark in their environment, and what each had taken when last seen."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.known: dict[int, psutil.Process | None] = {}  # None: of somebody else
        self.cpu: dict[int, float] = {}
        self.names: dict[int, str] = {}
        self.memory = 0.0
        self.looks = 0

    def look(self) -> None:
        together = 0.0
        for pid in psutil.pids():
            try:
                together += self._look_at(pid)
            except psutil.AccessDenied:
                self.known[pid] = None
            except psutil.NoSuchProcess:  # it ended meanwhile
                continue
        self.memory = max(self.memory, together)
        self.looks += 1

    def _look_at(self, pid: int) -> float:
        """Note a process's CPU and return its memory in MB, where it is one of the command's."""
        if pid not in self.known:
            process = psutil.Process(pid)
            self.known[pid] = process if process.environ().get(MARK) == self.mark else None
        known = self.known[pid]
        if known is None:
            return 0.0
        used = known.cpu_times()
        self.cpu[pid] = used.user + used.system
        self.names[pid] = name_of(known.cmdline()) or self.names.get(pid, "")
        return known.memory_full_info().pss / 1e6 if self.looks % LOOKS_AT_MEMORY == 0 else 0.0

    def taken(self, seconds: float) -> Taken:
        """Sum up what was taken by now."""
        by_name: dict[str, float] = {}
        for pid, cpu in self.cpu.items():
            by_name[self.names[pid]] = round(by_name.get(self.names[pid], 0.0) + cpu, 2)
        return Taken(seconds, sum(self.cpu.values()), self.memory, by_name)


def name_of(words: Sequence[str]) -> str:
    """Name what a process runs: a script, one of Ray's titles, or a program."""
    script = next((word for word in words[1:] if word.endswith(".py")), "")
    return Path(script or (words[0] if words else "")).name.removesuffix(".py") if words else ""


def cases(side: Side, config: BenchmarkConfig, folder: Path) -> dict[str, Taken]:
    """Have a side encode the pairs and train on them; return what each took, by case and engine of ours."""
    knows = side.root == files.ROOT  # the other side may know no engine but Ray
    taken: dict[str, Taken] = {}
    for engine in ENGINES if knows else ENGINES[-1:]:
        flags = ["--engine", engine] if knows else []
        for case, took in run_commands(side, config, folder / engine, flags).items():
            taken |= {f"{case}, {one}": took for one in ((engine,) if knows else ENGINES)}
    return taken


def run_commands(side: Side, config: BenchmarkConfig, folder: Path, flags: Sequence[str]) -> dict[str, Taken]:
    """Encode and train in a folder; return what encoding, the first step and the whole training took."""
    folder.mkdir(parents=True)
    log = folder / "log"
    store = str(folder / "store")
    run = folder / "run"
    source = str(files.resolve(config.source))
    encode = [side.python, "pipelines/encode_latents.py", "--source", source, "--model", MODEL, "--store", store]
    train = [side.python, "training/train_dpo.py", "--store", store, "--model", MODEL, "--output", str(run), *TRAINING]
    encoded = take([*encode, *flags], side.root, log)[WHOLE]
    trained = take([*train, *flags], side.root, log, run / "metrics.jsonl")
    return {"encode": encoded, "train: first step": trained[FIRST], "train: 14 steps": trained[WHOLE]}


def main(config: BenchmarkConfig) -> None:
    """Measure encoding and training by each engine, against another checkout."""
    check_least(config, {"rounds": 1})
    other = Path(files.resolve(config.against))
    if not (other / "training" / "train_dpo.py").is_file():
        raise UserError(f"--against {config.against}: no checkout of this project")
    samples: dict[str, dict[str, list[Taken]]] = {}
    with tempfile.TemporaryDirectory(prefix="engines-") as name:
        sides = {OURS: Side(files.ROOT, Path(name)), OTHER: Side(other, Path(name))}
        for number in range(config.rounds):
            for side in list(sides)[:: 1 if number % 2 else -1]:
                for case, taken in cases(sides[side], config, Path(name) / f"{side}-{number}").items():
                    samples.setdefault(case, {}).setdefault(side, []).append(taken)
                    print(f"{side}: {case} {taken.seconds:.1f} s, CPU {taken.cpu:.1f} s", flush=True)
    report(samples, config)


def report(samples: Mapping[str, Mapping[str, Sequence[Taken]]], config: BenchmarkConfig) -> None:
    """Print the table of medians, and write it to the file of --json."""
    rows = {}
    print(f"{HEAD}\n|{'---|' * (HEAD.count('|') - 1)}")
    for case, by_side in samples.items():
        row: dict[str, Any] = {"processes": {side: taken[-1].processes for side, taken in by_side.items()}}
        cells = [case]
        for name in ("seconds", "cpu", "memory"):
            by_median = {side: median([getattr(one, name) for one in taken]) for side, taken in by_side.items()}
            ratio = by_median[OURS] / by_median[OTHER]
            row[name] = by_median | {"ratio": ratio}
            digits = 0 if name == "memory" else 1
            cells += [f"{by_median[OURS]:.{digits}f}", f"{by_median[OTHER]:.{digits}f}", f"{ratio:.2f}"]
        rows[case] = row
        print(f"| {' | '.join(cells)} |")
    if config.json:
        figures = {"cases": rows, "config": asdict(config)}
        Path(files.resolve(config.json)).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
