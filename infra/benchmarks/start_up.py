"""CPU and memory that commands take before they do any work: `python infra/benchmarks/start_up.py --against FOLDER`.

Each side is a checkout with an environment of its own in .venv; FOLDER is the other one. Both are asked the same, in
turns: for help, with a flag that there is not, for an estimate, and to do again what is done. The
finished work is made first, by each side for itself: the embedded world's pairs encoded, two steps of training, one
label set, two images and their scores. A side that needs Ray for that starts it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.base import cli, files
from infra.base.errors import UserError, check_least
from infra.base.places import PathText
from infra.benchmarks.measure import median

OURS = "ours"
OTHER = "other"
HEAD = "| Command | Asked | CPU, s | other | ratio | Memory, MB | other | ratio |"
COMMANDS = (
    "pipelines/encode_latents.py",
    "pipelines/encode_reference.py",
    "pipelines/generate.py",
    "pipelines/score.py",
    "pipelines/report.py",
    "pipelines/evaluate_model.py",
    "pipelines/import_pairs.py",
    "pipelines/rank_pairs.py",
    "pipelines/rounds.py",
    "pipelines/sweep.py",
    "pipelines/arena.py",
    "labelers/relabel.py",
    "labelers/accuracy.py",
    "training/train_dpo.py",
    "infra/plan.py",
)
PLANNING = ("pipelines/encode_latents.py", "training/train_dpo.py")  # those with --dry-run


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    against: PathText
    """Folder of the other checkout, which has its environment in .venv."""
    rounds: int = 3
    """How often each side is asked the same; the table has the medians."""
    all_commands: bool = False
    """Ask every command for its help, not only those that the finished work needs."""
    json: PathText | None = None
    """File for the figures."""


@dataclass(frozen=True)
class Side:
    """A checkout, and the folder for what it makes."""

    root: Path
    work: Path

    @property
    def python(self) -> str:
        """Return the interpreter of its environment."""
        own = self.root / ".venv" / "bin" / "python"
        return str(own) if own.exists() else sys.executable


@dataclass(frozen=True)
class Case:
    """Something to ask a command; WORK in a word stands for the side's folder."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Taken:
    """What a process took."""

    cpu: float  # seconds, of all its threads, user and system
    memory: float  # MB (10^6 bytes), the largest resident set


def finished_work() -> list[Case]:
    """List the commands whose work is made first; asked again they have nothing to do."""
    store = ("--store", "WORK/store")
    steps = ("--steps", "2", "--checkpoint-every", "2")
    return [
        Case("finished", ("pipelines/encode_latents.py", *store)),
        Case("finished", ("training/train_dpo.py", *store, "--output", "WORK/dpo", *steps)),
        Case("finished", ("labelers/relabel.py", *store, "--scorer", "oracle")),
        Case("finished", ("pipelines/generate.py", "--output", "WORK/images", "--limit", "2", "--sampling-steps", "2")),
        Case("finished", ("pipelines/score.py", "--images", "WORK/images")),
    ]


def cases(all_commands: bool) -> list[Case]:
    """List all that is asked of both sides, what is finished last."""
    done = finished_work()
    asked = COMMANDS if all_commands else [case.words[0] for case in done]
    helps = [Case("help", (command, "--help")) for command in asked]
    wrong = [Case("wrong flag", (case.words[0], "--no-such-flag")) for case in done]
    source = {"training/train_dpo.py": ("--store", "WORK/store")}
    estimates = [Case("estimate", (command, "--dry-run", *source.get(command, ()))) for command in PLANNING]
    return [*helps, *wrong, *estimates, *done]


def take(side: Side, case: Case) -> Taken:
    """Run a command of a side to its end and return what it took.

    Raises:
        UserError: if it ends otherwise than such a case does.
    """
    asked = [word.replace("WORK", str(side.work)) for word in case.words]
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [side.python, str(side.root / asked[0]), *asked[1:]]
    process = subprocess.Popen(
        words, cwd=side.root, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != (2 if case.name == "wrong flag" else 0):
        raise UserError(f"{' '.join(words)}: exited {process.returncode}; run it by hand to see why")
    return Taken(used.ru_utime + used.ru_stime, used.ru_maxrss / 1000)


@dataclass(frozen=True)
class Compared:
    """What a case took on both sides: medians over the rounds."""

    case: Case
    ours: Taken
    other: Taken

    @property
    def cpu_ratio(self) -> float:
        """Return how many times as much CPU the other side takes."""
        return self.other.cpu / self.ours.cpu

    @property
    def memory_ratio(self) -> float:
        """Return how many times as much memory the other side takes."""
        return self.other.memory / self.ours.memory

    def line(self) -> str:
        """Lay it out as a line of the table."""
        return (
            f"| {self.case.words[0]} | {self.case.name} | {self.ours.cpu:.2f} | {self.other.cpu:.2f} "
            f"| {self.cpu_ratio:.1f} | {self.ours.memory:.0f} | {self.other.memory:.0f} | {self.memory_ratio:.1f} |"
        )


def compare(sides: Mapping[str, Side], case: Case, rounds: int) -> Compared:
    """Ask both sides the same in turns, forwards and backwards."""
    samples: dict[str, list[Taken]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 else -1]:
            samples[name].append(take(sides[name], case))
    return Compared(case, middle(samples[OURS]), middle(samples[OTHER]))


def middle(taken: Sequence[Taken]) -> Taken:
    """Return the medians of several runs."""
    return Taken(median([one.cpu for one in taken]), median([one.memory for one in taken]))


def main(config: BenchmarkConfig) -> None:
    """Measure what commands take before they do any work, against another checkout."""
    check_least(config, {"rounds": 1})
    other = Path(files.resolve(config.against))
    if not (other / "training" / "train_dpo.py").is_file():
        raise UserError(f"--against {config.against}: no checkout of this project")
    with tempfile.TemporaryDirectory(prefix="start-up-") as name:
        sides = {OURS: Side(files.ROOT, Path(name) / OURS), OTHER: Side(other, Path(name) / OTHER)}
        for side in sides.values():
            side.work.mkdir()
            for case in finished_work():
                take(side, case)
        print(f"{HEAD}\n|{'---|' * (HEAD.count('|') - 1)}")
        rows = []
        for case in cases(config.all_commands):
            rows.append(compare(sides, case, config.rounds))
            print(rows[-1].line(), flush=True)
    least = min(one.cpu_ratio for one in rows)
    print(f"least ratio of CPU {least:.1f}")
    if config.json:
        shares = [asdict(one) | {"cpu_ratio": one.cpu_ratio, "memory_ratio": one.memory_ratio} for one in rows]
        figures = {"ratio": least, "rows": shares, "config": asdict(config)}
        Path(files.resolve(config.json)).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
