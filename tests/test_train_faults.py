"""The trainer on a cluster that loses its driver: the same losses, and nothing lost.

What a lost worker and a stop request leave is in tests/test_train_dpo.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import Submit, notes, wait_for
from train_jobs import SCRIPT, driver

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
