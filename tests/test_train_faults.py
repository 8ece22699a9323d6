"""The trainer on a cluster that loses its driver or meets a spoilt pair: the same losses, and nothing lost.

What a lost worker and a stop request leave is in tests/test_train_dpo.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import Submit, notes, wait_for
from train_jobs import SCRIPT, driver

from infra.files import ROOT
from pipelines import store
from training import checkpoint
from training.order import permute
from training.staging import stage

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


def test_a_loss_that_is_not_finite_on_one_rank_stops_both_and_names_step_and_pair(
    encoded_store: Path, training_flags: list[str], submit: Submit, tmp_path: Path
) -> None:
    cache, output = tmp_path / "cache", tmp_path / "run"
    staged = stage(str(encoded_store), str(cache))
    place = 16 * 7 + 3  # in the order of the first epoch: step 8, the first rank's share
    row = int(permute(np.array([place], np.uint64), len(staged.pair_ids), seed=0, epoch=0)[0])
    latents = np.load(next(cache.glob("*/latents.npy")), mmap_mode="r+")
    latents[row] = np.nan  # as a failing disk or memory leaves it; the store's own files are whole
    latents.flush()
    flags = [*training_flags, "--cache", str(cache), "--workers", "2", "--output", str(output)]
    done = submit(SCRIPT, *flags, check=False)
    assert done.returncode != 0
    told = (
        f"step 8: the loss of pairs {staged.pair_ids[row]} is not finite; nothing was updated, the last checkpoint in"
    )
    assert f"error: {told} {output} stands" in done.stdout.splitlines()
    assert len(notes(output)) == 7
    assert checkpoint.complete_steps(str(output)) == [6]
    assert checkpoint.read_state(checkpoint.folder_of(output, 6)).step == 6
