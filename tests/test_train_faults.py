"""The trainer on a cluster that loses its driver, and a whole node: the same stream, and nothing lost.

What a lost worker and a stop request leave is in tests/test_train_dpo.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import Submit, notes, wait_for
from train_jobs import SCRIPT, driver, train_workers

from infra.files import ROOT
from pipelines import store
from training import checkpoint

pytestmark = pytest.mark.chaos


def begin(flags: list[str], output: Path, surroundings: dict[str, str]) -> subprocess.Popen[bytes]:
    """Submit a run and go on."""
    command = ["ray", "job", "submit", "--", "python", SCRIPT, *flags, "--output", str(output)]
    return subprocess.Popen(command, cwd=ROOT, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def steps(output: Path) -> int:
    """Count the steps that a run has noted."""
    path = output / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_sigkill_of_the_driver_at_a_checkpoint_and_past_the_epochs_end_changes_no_loss(
    two_workers: Path,
    encoded_store: Path,
    training_flags: list[str],
    submit: Submit,
    ray_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    output, flags = tmp_path / "killed", [*training_flags, "--workers", "2"]
    expected = notes(two_workers)
    boundary = store.read_manifest(str(encoded_store)).counts.kept // 16 + 1  # the second epoch's first step
    assert boundary < 24
    moments = (lambda: checkpoint.folder_of(output, 6).exists(), lambda: steps(output) >= boundary)
    for reached in moments:  # while a checkpoint is written; in the first step of the second epoch
        job = begin(flags, output, ray_environment)
        wait_for(reached, job)
        os.kill(driver(output), signal.SIGKILL)
        assert job.wait(timeout=300) != 0
    submit(SCRIPT, *flags, "--output", str(output))
    for name in ("loss", "stream", "gradient_norm"):
        assert [row[name] for row in notes(output)] == [row[name] for row in expected]


@pytest.fixture
def second_node(ray_environment: dict[str, str], tmp_path: Path) -> Iterator[psutil.Popen]:
    """Hold a second node of two CPUs in the session's cluster."""
    server = {name: value for name, value in ray_environment.items() if not name.endswith("_ADDRESS")}
    address = ray_environment["RAY_ADDRESS"]
    command = ["ray", "start", f"--address={address}", "--block", "--num-cpus=2", "--object-store-memory=100000000"]
    with (tmp_path / "node.log").open("wb") as log:
        node = psutil.Popen(command, env=server, stdout=log, stderr=log, start_new_session=True)
    asked = ["ray", "list", "nodes", "--format", "json", "--filter", "state=ALIVE"]

    def joined() -> bool:
        told = subprocess.run(asked, env=ray_environment, capture_output=True, text=True, check=False)
        return told.returncode == 0 and len(json.loads(told.stdout)) == 2

    wait_for(joined, node)
    yield node
    kill(node)


def kill(node: psutil.Popen) -> None:
    """SIGKILL a node: its raylet, its workers, all that it started."""
    for process in [*node.children(recursive=True), node] if node.is_running() else []:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    node.wait()


def test_sigkill_of_a_node_leaves_a_smaller_group_that_goes_on(
    two_workers: Path,
    training_flags: list[str],
    second_node: psutil.Popen,
    ray_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    output = tmp_path / "smaller"
    each_on_a_node = ["--workers", "2", "--min-workers", "1", "--cpus-per-worker", "1.25"]  # of two CPUs
    job = begin([*training_flags, *each_on_a_node], output, ray_environment)
    wait_for(lambda: steps(output) >= 8, job)
    assert train_workers(ray_environment) & {one.pid for one in second_node.children(recursive=True)}
    kill(second_node)
    assert job.wait(timeout=300) == 0  # one worker is all that the other node has room for
    found, expected = notes(output), notes(two_workers)
    assert [row["stream"] for row in found] == [row["stream"] for row in expected]
    # One worker adds gradients in another order than two: rounding, which grows with the steps.
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], abs=1e-3)
