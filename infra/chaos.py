"""Kill an encoding at random moments, over and over: `nice python infra/chaos.py --rounds 20 --seed 0`.

On a cluster of its own with two nodes the embedded world's pairs are encoded, once undisturbed and then once a round.
In each round every victim is struck at a moment of its own, drawn from the seed: when the rows of so many blocks are
written, and every other time while one is half written. Then the store must be the undisturbed one: the same counts,
the same hash, each pair once. Moments are told by files, never by the clock.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import pyarrow as pa
import pyarrow.dataset as pads

from infra import cli, cluster, files, netsplit
from infra.errors import UserError
from pipelines import engine, progress, store

Victim = Literal["encoder", "driver", "node", "network"]
SCRIPT = "pipelines/encode_latents.py"
PATIENCE = 300.0  # seconds without the file that a moment waits for; a lost node alone may take a minute
BLOCK = 16  # rows; Ray may write several at once
LOST = 30.0  # seconds that the network is away


@dataclass(frozen=True)
class ChaosConfig:
    """How often, from where, and who is struck."""

    rounds: int = 10
    """Encodings; each is struck once per victim."""
    seed: int = 0
    """Of the moments."""
    victims: tuple[Victim, ...] = ("encoder", "driver", "node")
    """The VAE's actor, the driver and the second node's raylet get SIGKILL; network takes the second node's away for
    30 s, which needs root."""


@dataclass(frozen=True)
class Strike:
    """Whom to strike, and when."""

    victim: Victim
    blocks: int  # whose rows are written before
    half_written: bool  # strike while the next one is


def strikes(rng: random.Random, victims: Sequence[Victim], blocks: int) -> list[Strike]:
    """Draw one strike per victim, in any order, at moments before the last third of an encoding of so many blocks."""
    moments = sorted(rng.sample(range(1, max(len(victims) + 1, 2 * blocks // 3)), len(victims)))
    order = rng.sample(list(victims), len(victims))
    return [Strike(victim, moment, rng.random() < 0.5) for victim, moment in zip(order, moments, strict=True)]


@contextlib.contextmanager
def second_node(
    surroundings: dict[str, str], log: Path, apart: bool = False
) -> Iterator[tuple[psutil.Process, netsplit.Place | None]]:
    """Join a node of as many CPUs to a cluster; yield its process, which ends with the block, and its network if apart.

    Raises:
        UserError: if it does not join, or may have no network of its own.
    """
    with contextlib.ExitStack() as held:
        place = held.enter_context(netsplit.apart()) if apart else None
        host, port = surroundings["RAY_ADDRESS"].split(":")
        address = f"{place.outside if place else host}:{port}"
        ports = [f"--{name}={number}" for name, number in cluster.free_ports().others.items() if "client" not in name]
        command = ["ray", "start", f"--address={address}", "--block", "--disable-usage-stats", *ports]
        command += [f"--object-store-memory={1 << 28}", *([f"--node-ip-address={place.inside}"] if place else [])]
        # A folder of its own, as a machine has: in the head's it notes the address by which it went, for jobs to take.
        folder = tempfile.mkdtemp(prefix="dpo-", dir="/tmp")  # short: socket paths end at 107 bytes
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        command += [f"--temp-dir={folder}"]
        before = nodes(surroundings)
        with log.open("wb") as out:
            process = psutil.Popen(
                [*(place.command if place else ()), *command],
                cwd=files.ROOT,
                env={name: value for name, value in surroundings.items() if not name.endswith("_ADDRESS")},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        held.callback(cluster.stop, process)
        wait_until(lambda: nodes(surroundings) > before or process.poll() is not None)
        if process.poll() is not None:
            raise UserError(f"no second node joined; {log} has its words")
        yield process, place


def nodes(surroundings: dict[str, str]) -> int:
    """Count the living nodes of a cluster."""
    asked = subprocess.run(
        ["ray", "list", "nodes", "--filter", "state=ALIVE", "--format", "json"],
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.count('"node_id"')


def wait_until(reached: Callable[[], bool]) -> None:
    """Look again and again until something is so.

    Raises:
        UserError: if it is not for very long.
    """
    deadline = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > deadline:
            raise UserError(f"nothing happened for {PATIENCE:.0f} s")
        time.sleep(0.005)


def processes(surroundings: dict[str, str], told: Callable[[list[str]], bool]) -> list[int]:
    """Find processes of a cluster by their command lines; those of other clusters are left alone."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            if (
                told(process.info["cmdline"] or [])
                and process.environ().get("RAY_AUTH_TOKEN_PATH") == surroundings["RAY_AUTH_TOKEN_PATH"]
            ):
                found.append(process.pid)
    return found


class Encoding:
    """One encoding into a folder of its own, struck and run again until it is finished."""

    def __init__(self, surroundings: dict[str, str], flags: Sequence[str], destination: Path) -> None:
        self.surroundings, self.destination = surroundings, destination
        self.command = ["ray", "job", "submit", "--", "python", SCRIPT, *flags, "--store", str(destination)]
        self.log = destination.with_suffix(".log")
        self.safe: dict[Path, int] = {}  # files of finished blocks, and when they were written
        self.job = self._begin()

    def _begin(self) -> subprocess.Popen[bytes]:
        done = tuple(mark.stem for mark in self.marks() if ".pending" not in mark.name)
        written = (self.destination / "pairs").rglob("*.parquet")
        self.safe |= {path: path.stat().st_mtime_ns for path in written if path.name.startswith(done)}
        with self.log.open("ab") as out:
            return subprocess.Popen(self.command, cwd=files.ROOT, env=self.surroundings, stdout=out, stderr=out)

    def marks(self) -> list[Path]:
        """List the marks of written and half-written blocks of pairs."""
        return list((self.destination / store.WORK / "pairs_done").glob("*.parquet"))

    def wait_for(self, strike: Strike) -> None:
        """Wait for a strike's moment.

        Raises:
            UserError: if the job ends before.
        """

        work = self.destination / store.WORK

        def reached() -> bool:
            half = any(".pending" in path.name for path in self.marks())
            try:
                written = progress.finished_rows(str(work / "pairs_done")) >= strike.blocks * BLOCK
            except (OSError, pa.ArrowInvalid):  # a mark is being written
                return False
            # Where no look met a half-written block, the second pass is late enough.
            due = written and (half or not strike.half_written or (work / "captions.parquet").exists())
            return due or self.job.poll() is not None

        wait_until(reached)
        if self.job.poll() is not None:
            raise UserError(f"the job ended before {strike}; {self.log} has its words")

    def kill_encoder(self) -> None:
        """End an actor that holds the VAE, or in the second pass the text encoder.

        Raises:
            UserError: if there is none any more.
        """
        wait_until(lambda: bool(self._encoders()) or self.job.poll() is not None)
        if not (encoders := self._encoders()):
            raise UserError(f"the job ended before an encoder could be killed; {self.log} has its words")
        os.kill(encoders[0], signal.SIGKILL)

    def _encoders(self) -> list[int]:
        return processes(self.surroundings, lambda told: "Encoder" in " ".join(told[:1]))

    def kill_driver(self) -> None:
        """End the driver, and give the same command again when the job is over."""
        told = str(self.destination)
        drivers = processes(self.surroundings, lambda cmdline: told in cmdline and cmdline[1:2] == [SCRIPT])
        if not drivers:
            raise UserError(f"{told}: no driver")
        for pid in drivers:
            os.kill(pid, signal.SIGKILL)
        self.job.wait(PATIENCE)
        self.job = self._begin()

    def finish(self) -> store.Manifest:
        """Wait for the end, again where the job asks to be run again, and read what the store says of itself.

        Raises:
            UserError: if the job failed, a file is not as its manifest says, a pair is there twice or not at all, or
                what was finished was written again.
        """
        while code := self.job.wait():
            if engine.AGAIN not in self.log.read_text().rpartition("submitted successfully")[2]:
                raise UserError(f"the job exited {code}; {self.log} has its words")
            self.job = self._begin()
        manifest = store.read_manifest(str(self.destination))
        store.verify(str(self.destination), manifest, contents=True)
        ids = pads.dataset(self.destination / "pairs", format="parquet").to_table(columns=["pair_id"])["pair_id"]
        if not len(ids) == len(ids.unique()) == manifest.counts.rows_in:
            raise UserError(f"{self.destination}: {len(ids)} rows, {len(ids.unique())} pairs")
        again = [path for path, written in self.safe.items() if not path.exists() or path.stat().st_mtime_ns != written]
        if again:
            raise UserError(f"{again[0]}: was finished, and is written again or gone")
        return manifest


def kill_raylet(node: psutil.Process) -> None:
    """End a node's raylet; what ran there ends with it."""
    for child in node.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if Path(child.cmdline()[0]).name == "raylet":
                child.kill()


def run_round(
    surroundings: dict[str, str], flags: Sequence[str], destination: Path, drawn: Sequence[Strike]
) -> store.Manifest:
    """Encode and strike, and return what the finished store says of itself."""
    apart = any(strike.victim == "network" for strike in drawn)
    with second_node(surroundings, destination.with_suffix(".node.log"), apart) as (node, place):
        encoding = Encoding(surroundings, flags, destination)
        for strike in drawn:
            encoding.wait_for(strike)
            match strike.victim:
                case "encoder":
                    encoding.kill_encoder()
                case "driver":
                    encoding.kill_driver()
                case "node":
                    kill_raylet(node)
                case "network":
                    assert place is not None
                    netsplit.lose(place, LOST)
        return encoding.finish()


def main(config: ChaosConfig) -> None:
    """Encode under kills, round after round, and compare each store with the undisturbed one."""
    flags = ["--encoders", "2", "--rows-per-file", str(BLOCK), "--batch-size", "8"]
    rng = random.Random(config.seed)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    with cluster.running(folder / "cluster.log") as surroundings:
        clean = Encoding(surroundings, flags, folder / "clean").finish()
        print(f"undisturbed: {clean.counts.rows_in} rows, content hash {clean.content_hash}", flush=True)
        for number in range(config.rounds):
            drawn = strikes(rng, config.victims, clean.counts.rows_in // BLOCK)
            told = ", ".join(f"{s.victim} after {s.blocks}{'+' * s.half_written}" for s in drawn)
            print(f"round {number + 1} of {config.rounds}: {told}", end="", flush=True)
            found = run_round(surroundings, flags, folder / f"round-{number}", drawn)
            if (found.counts, found.content_hash) != (clean.counts, clean.content_hash):
                raise UserError(f"{folder}/round-{number} differs from {folder}/clean: {found.counts}")
            print("; the same store", flush=True)
            shutil.rmtree(folder / f"round-{number}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    cli.run(main, ChaosConfig)
