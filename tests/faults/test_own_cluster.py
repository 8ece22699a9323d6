"""Encodings and trainings on a Ray cluster of their own that are killed, stopped or out of room, and given again.

tests/pipelines/engine/test_own_copies.py has a stand-in for Ray, for what each failure is in code.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import train_jobs
from support.material import needs_root, small_disk_at, wait_for
from support.own_clusters import OnOwnCluster
from support.stores import SCRIPT, contents

from infra.base import engines, files
from pipelines.engine import progress, ray_cluster
from pipelines.engine.failures import AGAIN
from pipelines.latents import store
from pipelines.latents.encode_config import EncodeConfig
from pipelines.latents.encode_latents import main
from training.checkpoints import checkpoint
from training.run import stopping

pytestmark = [pytest.mark.chaos, pytest.mark.long, pytest.mark.usefixtures("keys")]  # which its commands inherit
COPY = "_Copy"  # in the titles of the processes that compute
KEY = "stopping after the work in hand; Ctrl-C again ends at once\n"
Begin = Callable[[], OnOwnCluster]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def begin(raw_pairs: Path, path: Path, tmp_path: Path) -> Begin:
    """Return a function that gives the encoder's command: two copies, a hundred blocks."""
    flags = ["--source", str(raw_pairs), "--store", str(path), "--encoders", "2"]
    small = ["--rows-per-file", "4", "--batch-size", "32"]
    return lambda: OnOwnCluster(SCRIPT, [*flags, *small], tmp_path / "printed")


DIED = (
    "3 processes died one after another at the same block, usually for want of memory; ask for fewer copies "
    "(--encoders, --samplers or --copies) or lower --batch-size"
)


def refused(path: Path, reason: str) -> str:
    return f"error: {path}/pairs: {reason}; {AGAIN}\n"


def marks(path: Path) -> list[str]:
    return progress.committed(str(path / store.WORK / "pairs_done"))


def ended(command: OnOwnCluster) -> tuple[int, str]:
    """Wait for a command's end; return its exit code and what it has said of errors, but of the source's rows."""
    code, said = command.end()
    return code, "".join(line for line in said.splitlines(keepends=True) if not line.startswith("warning: "))


def finishes(path: Path, raw_pairs: Path, encoded_store: Path) -> None:
    """Finish a store in this process, which takes over from a cluster what is written."""
    with engines.asking("local"):
        main(EncodeConfig(source=str(raw_pairs), store=str(path), rows_per_file=64))
    assert contents(path) == contents(encoded_store)


def test_a_copy_that_is_killed_is_replaced_and_its_block_is_written_once(
    begin: Begin, path: Path, encoded_store: Path
) -> None:
    command = begin()
    wait_for(lambda: len(marks(path)) >= 3, command)
    wait_for(lambda: bool(command.processes(COPY)), command)
    command.processes(COPY)[0].kill()
    assert ended(command) == (0, "")
    assert contents(path) == contents(encoded_store)


def test_copies_that_die_again_and_again_are_one_sentence(
    begin: Begin, path: Path, raw_pairs: Path, encoded_store: Path
) -> None:
    command = begin()
    command.kill_until_it_ends(f"{COPY}.compute")
    assert ended(command) == (2, refused(path, DIED))
    finishes(path, raw_pairs, encoded_store)


@pytest.mark.parametrize(
    ("number", "to_all", "exit_code"),
    [
        (signal.SIGTERM, False, 143),
        (signal.SIGTERM, True, 143),
        (signal.SIGINT, True, 143),
        (signal.SIGKILL, False, -9),
        (signal.SIGKILL, True, -9),
    ],
    ids=["SIGTERM", "SIGTERM to all", "Ctrl-C", "SIGKILL", "SIGKILL to all"],
)
def test_a_command_that_is_ended_leaves_no_process_and_goes_on(
    number: signal.Signals, to_all: bool, exit_code: int, begin: Begin, path: Path, raw_pairs: Path, encoded_store: Path
) -> None:
    command = begin()
    wait_for(lambda: len(marks(path)) >= 3, command)
    kept = marks(path)
    command.send(number, to_all)
    said = "" if exit_code == -9 else f"{path}/pairs: stopped on request; {AGAIN}\n"
    assert ended(command) == (exit_code, f"{KEY}{said}" if number == signal.SIGINT else said)
    assert set(kept) <= set(marks(path))
    if exit_code == 143:
        assert not files.list_files(str(path / store.WORK), progress.PENDING)  # the block under way was written
    finishes(path, raw_pairs, encoded_store)


def test_sigterm_while_ray_starts_ends_the_command_at_once(begin: Begin, path: Path) -> None:
    command = begin()
    wait_for(lambda: bool(command.processes("raylet")), command)
    command.send(signal.SIGTERM)
    code, told = ended(command)
    assert code in (143, -15)
    assert told == ""
    assert not marks(path)


def test_a_raylet_that_is_killed_is_one_sentence(
    begin: Begin, path: Path, raw_pairs: Path, encoded_store: Path
) -> None:
    command = begin()
    wait_for(lambda: len(marks(path)) >= 3, command)
    for process in command.processes("raylet/raylet"):
        process.kill()
    assert ended(command) == (2, refused(path, ray_cluster.ENDED))
    finishes(path, raw_pairs, encoded_store)


@pytest.mark.parametrize("to_all", [True, False], ids=["to all, as a terminal", "to the command"])
def test_ctrl_c_ends_a_training_after_a_checkpoint(to_all: bool, training_flags: list[str], tmp_path: Path) -> None:
    """Ray's own answer to it ended the command with code 0 before the last step."""
    output = tmp_path / "run"
    flags = [*training_flags, "--workers", "2", "--output", str(output), "--steps"]
    command = OnOwnCluster(train_jobs.SCRIPT, [*flags, "10000"], tmp_path / "printed")
    wait_for(lambda: train_jobs.steps(output) >= 3, command)
    command.send(signal.SIGINT, to_all)
    code, said = ended(command)
    step = train_jobs.steps(output)
    assert (code, said) == (143, f"{KEY}{output}: {stopping.Stopped(step)}\n")
    assert checkpoint.complete(output)[-1] == checkpoint.folder_of(output, step)
    assert OnOwnCluster(train_jobs.SCRIPT, [*flags, str(step + 1)], tmp_path / "printed").end()[0] == 0
    assert train_jobs.steps(output) == step + 1


def test_a_training_whose_raylet_is_killed_is_one_sentence(training_flags: list[str], tmp_path: Path) -> None:
    """Ray itself would wait a minute, and then end the command without a word."""
    output = tmp_path / "run"
    flags = [*training_flags, "--workers", "2", "--output", str(output), "--checkpoint-every", "2", "--steps"]
    command = OnOwnCluster(train_jobs.SCRIPT, [*flags, "10000"], tmp_path / "printed")
    wait_for(lambda: bool(checkpoint.complete_steps(str(output))), command)
    for process in command.processes("raylet/raylet"):
        process.kill()
    assert ended(command) == (2, f"error: {output}: {ray_cluster.ENDED}; {AGAIN}\n")
    step = max(checkpoint.complete_steps(str(output)))
    assert OnOwnCluster(train_jobs.SCRIPT, [*flags, str(step + 1)], tmp_path / "printed").end()[0] == 0
    assert train_jobs.steps(output) == step + 1


@needs_root
def test_a_full_disk_is_one_sentence_and_with_room_the_same_command_finishes(
    raw_pairs: Path, encoded_store: Path, tmp_path: Path
) -> None:
    with small_disk_at(tmp_path / "disk", "400k") as disk:
        path = disk / "s"
        flags = ["--source", str(raw_pairs), "--store", str(path), "--encoders", "2", "--rows-per-file", "16"]
        full = ended(OnOwnCluster(SCRIPT, flags, tmp_path / "printed"))
        said = f"error: {path}/pairs: could not be written (No space left on device); make room, then {AGAIN}\n"
        assert full == (2, said)
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        assert ended(OnOwnCluster(SCRIPT, flags, tmp_path / "printed")) == (0, "")
        assert contents(path) == contents(encoded_store)
