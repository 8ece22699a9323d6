"""Kill an encoding at random moments, over and over: `nice python infra/chaos.py --rounds 20 --seed 0`.

On a cluster of its own with two nodes the embedded world's pairs are encoded, once undisturbed and then once a round.
In each round every victim is struck at a moment of its own, drawn from the seed: when the rows of so many blocks are
written, and every other time while one is half written. Then the store must be the undisturbed one: the same counts,
the same hash, each pair once. Moments are told by files, never by the clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import pyarrow as pa

from infra.base import cli, files, tables
from infra.base.errors import UserError
from infra.faults import netsplit
from infra.local import cluster
from pipelines.engine import on_ray, progress
from pipelines.latents import store

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
    """One encoding into a folder of its own, on a disk or on S3, struck and run again until it is finished."""

    def __init__(
        self,
        surroundings: dict[str, str],
        flags: Sequence[str],
        destination: str,
        log: Path,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Begin it.

        Args:
            surroundings: the environment of the cluster's clients.
            flags: the encoder's, but the store.
            destination: the store, absolute or s3://.
            log: the file for what the job says.
            variables: of the job's environment, its workers' too: S3's server, say.
        """
        self.surroundings, self.destination, self.log = surroundings, destination, log
        given = ["--runtime-env-json", json.dumps({"env_vars": dict(variables)})] if variables else []
        self.command = ["ray", "job", "submit", *given, "--", "python", SCRIPT, *flags, "--store", destination]
        self.safe: dict[str, int] = {}  # files of finished blocks, and when they were written
        self.rows: dict[str, int] = {}  # by mark of a finished block
        self.job = self._begin()

    def _begin(self) -> subprocess.Popen[bytes]:
        done = tuple(Path(mark).stem for mark in progress.committed(self._work("pairs_done")))
        self.safe |= {path: at for path, at in self._written().items() if Path(path).name.startswith(done)}
        with self.log.open("ab") as out:
            return subprocess.Popen(self.command, cwd=files.ROOT, env=self.surroundings, stdout=out, stderr=out)

    def _work(self, name: str) -> str:
        return files.join(self.destination, store.WORK, name)

    def _written(self) -> dict[str, int]:
        return {path: at for path, _, at in files.stamps(files.join(self.destination, "pairs"))}

    def _finished_rows(self) -> int:
        """Count the rows of finished blocks; a mark is read once."""
        for mark in progress.committed(self._work("pairs_done")):
            if mark not in self.rows:
                self.rows[mark] = tables.count_rows(mark)
        return sum(self.rows.values())

    def wait_for(self, strike: Strike) -> None:
        """Wait for a strike's moment.

        Raises:
            UserError: if the job ends before.
        """

        def reached() -> bool:
            half = bool(files.list_files(self._work("pairs_done"), progress.PENDING))
            try:
                written = self._finished_rows() >= strike.blocks * BLOCK
            except (OSError, pa.ArrowInvalid):  # a mark is being written
                return False
            # Where no look met a half-written block, the second pass is late enough.
            due = written and (half or not strike.half_written or files.exists(self._work("captions.parquet")))
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
        drivers = processes(self.surroundings, lambda told: self.destination in told and told[1:2] == [SCRIPT])
        if not drivers:
            raise UserError(f"{self.destination}: no driver")
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
            if on_ray.AGAIN not in self.log.read_text().rpartition("submitted successfully")[2]:
                raise UserError(f"the job exited {code}; {self.log} has its words")
            self.job = self._begin()
        manifest = store.read_manifest(self.destination)
        store.verify(self.destination, manifest, contents=True)
        ids = tables.read_folder(files.join(self.destination, "pairs"), ["pair_id"])["pair_id"]
        if not len(ids) == len(ids.unique()) == manifest.counts.rows_in:
            raise UserError(f"{self.destination}: {len(ids)} rows, {len(ids.unique())} pairs")
        now = self._written()
        if again := [path for path, at in self.safe.items() if now.get(path) != at]:
            raise UserError(f"{self.destination}/pairs/{again[0]}: was finished, and is written again or gone")
        return manifest


def kill_raylet(node: psutil.Process) -> None:
    """End a node's raylet; what ran there ends with it."""
    for child in node.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if Path(child.cmdline()[0]).name == "raylet":
                child.kill()


def run_round(
    surroundings: dict[str, str],
    flags: Sequence[str],
    destination: str,
    drawn: Sequence[Strike],
    log: Path,
    variables: Mapping[str, str] | None = None,
) -> store.Manifest:
    """Encode and strike, and return what the finished store says of itself; the arguments are Encoding's."""
    apart = any(strike.victim == "network" for strike in drawn)
    with second_node(surroundings, log.with_suffix(".node.log"), apart) as (node, place):
        encoding = Encoding(surroundings, flags, destination, log, variables)
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
        clean = Encoding(surroundings, flags, str(folder / "clean"), folder / "clean.log").finish()
        print(f"undisturbed: {clean.counts.rows_in} rows, content hash {clean.content_hash}", flush=True)
        for number in range(config.rounds):
            drawn = strikes(rng, config.victims, clean.counts.rows_in // BLOCK)
            told = ", ".join(f"{s.victim} after {s.blocks}{'+' * s.half_written}" for s in drawn)
            print(f"round {number + 1} of {config.rounds}: {told}", end="", flush=True)
            destination = folder / f"round-{number}"
            found = run_round(surroundings, flags, str(destination), drawn, destination.with_suffix(".log"))
            if (found.counts, found.content_hash) != (clean.counts, clean.content_hash):
                raise UserError(f"{destination} differs from {folder}/clean: {found.counts}")
            print("; the same store", flush=True)
            shutil.rmtree(destination)
    shutil.rmtree(folder)


if __name__ == "__main__":
    cli.run(main, ChaosConfig)
