"""Strike an encoding at chosen moments and run it again until it is finished, for infra/chaos.py and the tests."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.base import files, tables
from infra.base.errors import UserError
from infra.faults import netsplit
from infra.faults.chaos_config import Victim
from infra.faults.nodes import PATIENCE, kill_raylet, processes, second_node, wait_until
from pipelines.engine import progress
from pipelines.engine.failures import AGAIN
from pipelines.latents import store

SCRIPT = "pipelines/encode_latents.py"
BLOCK = 16  # rows of a block; Ray may write several blocks at once
LOST = 30.0  # seconds without the network


@dataclass(frozen=True)
class Strike:
    """A victim, and the moment at which to strike it."""

    victim: Victim
    blocks: int  # blocks whose rows are written before the strike
    half_written: bool  # whether to strike while the next block is half written


def strikes(rng: random.Random, victims: Sequence[Victim], blocks: int) -> list[Strike]:
    """Draw one strike per victim, in random order, at moments in the first two thirds of an encoding.

    Args:
        blocks: blocks of the whole encoding.
    """
    moments = sorted(rng.sample(range(1, max(len(victims) + 1, 2 * blocks // 3)), len(victims)))
    order = rng.sample(list(victims), len(victims))
    return [Strike(victim, moment, rng.random() < 0.5) for victim, moment in zip(order, moments, strict=True)]


class Encoding:
    """One encoding into a folder on a disk or on S3, run again after each strike until it is finished."""

    def __init__(
        self,
        surroundings: dict[str, str],
        flags: Sequence[str],
        destination: str,
        log: Path,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Begin the encoding.

        Args:
            surroundings: environment of the cluster's clients.
            flags: flags of the encoder, without --store.
            destination: the store, an absolute path or s3://.
            log: file for the job's output.
            variables: environment of the job and its workers, for example the address of an S3 server.
        """
        self.surroundings = surroundings
        self.destination = destination
        self.log = log
        given = ["--runtime-env-json", json.dumps({"env_vars": dict(variables)})] if variables else []
        self.command = ["ray", "job", "submit", *given, "--", "python", SCRIPT, *flags, "--store", destination]
        self.safe: dict[str, int] = {}  # files of finished blocks, and the time of their last change
        self.rows: dict[str, int] = {}  # rows of a finished block, by its mark
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
        """Count the rows of finished blocks; it reads each mark once."""
        for mark in progress.committed(self._work("pairs_done")):
            if mark not in self.rows:
                self.rows[mark] = tables.count_rows(mark)
        return sum(self.rows.values())

    def wait_for(self, strike: Strike) -> None:
        """Wait for the moment of a strike.

        Raises:
            UserError: if the job ends earlier.
        """

        def reached() -> bool:
            half = bool(files.list_files(self._work("pairs_done"), progress.PENDING))
            try:
                written = self._finished_rows() >= strike.blocks * BLOCK
            except (OSError, tables.UnreadableError):  # a mark is being written
                return False
            # The captions of the second pass show that no look met a half-written block, and none will come.
            due = written and (half or not strike.half_written or files.exists(self._work("captions.parquet")))
            return due or self.job.poll() is not None

        wait_until(reached)
        if self.job.poll() is not None:
            raise UserError(f"the job ended before {strike}; {self.log} says why")

    def kill_encoder(self) -> None:
        """Kill an actor that holds the VAE, or in the second pass the text encoder.

        Raises:
            UserError: if the job ends before one is there.
        """
        wait_until(lambda: bool(self._encoders()) or self.job.poll() is not None, every=0.1)
        encoders = self._encoders()
        if not encoders:
            raise UserError(f"the job ended before an encoder could be killed; {self.log} says why")
        os.kill(encoders[0], signal.SIGKILL)

    def _encoders(self) -> list[int]:
        return processes(self.surroundings, lambda command: "Encoder" in " ".join(command[:1]))

    def kill_driver(self) -> None:
        """Kill the driver, and give the same command again when the job is over.

        Raises:
            UserError: if there is no driver.
        """
        drivers = processes(self.surroundings, lambda command: self.destination in command and command[1:2] == [SCRIPT])
        if not drivers:
            raise UserError(f"{self.destination}: no driver of this encoding runs; {self.log} says why")
        for pid in drivers:
            os.kill(pid, signal.SIGKILL)
        self.job.wait(PATIENCE)
        self.job = self._begin()

    def finish(self) -> store.Manifest:
        """Wait for the end, run the job again where it asks for that, check the store and return its manifest.

        Raises:
            UserError: if the job fails, a file differs from the manifest, a pair is missing or there twice, or a
                finished file was written again.
        """
        while self.job.wait():
            if AGAIN not in self.log.read_text().rpartition("submitted successfully")[2]:
                raise UserError(f"the job failed with exit code {self.job.returncode}; {self.log} says why")
            self.job = self._begin()
        manifest = store.read_manifest(self.destination)
        store.verify(self.destination, manifest, contents=True)
        ids = tables.read_folder(files.join(self.destination, "pairs"), ["pair_id"])["pair_id"]
        if not len(ids) == len(ids.unique()) == manifest.counts.rows_in:
            raise UserError(
                f"{self.destination}: {len(ids)} rows with {len(ids.unique())} pairs, though the source has "
                f"{manifest.counts.rows_in} rows; some were lost or written twice"
            )
        now = self._written()
        changed = [path for path, at in self.safe.items() if now.get(path) != at]
        if changed:
            raise UserError(f"{self.destination}/pairs/{changed[0]}: was finished, and is written again or gone")
        return manifest


def run_round(
    surroundings: dict[str, str],
    flags: Sequence[str],
    destination: str,
    drawn: Sequence[Strike],
    log: Path,
    variables: Mapping[str, str] | None = None,
) -> store.Manifest:
    """Encode, strike, and return the manifest of the finished store.

    Args:
        surroundings, flags, destination, log, variables: as for Encoding.
        drawn: strikes in the order of their moments.
    """
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
