"""The trainer on a cluster that loses its driver or a node, or meets a spoilt pair: the same losses, and nothing lost.

What a lost worker and a stop request leave is in tests/training/run/test_train_dpo.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.material import Submit, notes, wait_for
from support.stores import overwrite_latents
from support.train_jobs import SCRIPT, begin, driver, steps, train_workers

from infra.faults import nodes as cluster_nodes
from pipelines.latents import store
from training.checkpoints import checkpoint
from training.checkpoints.mirror import open_mirror
from training.method.order import permute
from training.settings.config import DataConfig, TrainConfig

pytestmark = pytest.mark.chaos
LOST_SOON = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20"}  # docs/operations.md


def test_sigkill_of_a_worker_in_a_step_and_of_the_driver_at_a_checkpoint_changes_no_loss(
    two_workers: Path, training_flags: list[str], drive: Submit, ray_environment: dict[str, str], tmp_path: Path
) -> None:
    output, flags = tmp_path / "killed", [*training_flags, "--workers", "2"]
    job = begin(flags, output, ray_environment)
    wait_for(lambda: steps(output) >= 8, job)
    before = train_workers(ray_environment)
    assert len(before) == 2
    os.kill(max(before), signal.SIGKILL)
    wait_for(lambda: len(train_workers(ray_environment) - before) == 2, job)  # a new group goes on
    wait_for(lambda: checkpoint.folder_of(output, 18).exists(), job)  # it is being written, or was just now
    os.kill(driver(output), signal.SIGKILL)
    assert job.wait(timeout=300) != 0
    drive(SCRIPT, *flags, "--output", str(output))
    for name in ("step", "loss", "stream", "gradient_norm"):
        assert [row[name] for row in notes(output)] == [row[name] for row in notes(two_workers)]


@pytest.mark.long
def test_sigkill_of_the_driver_past_the_epochs_end_changes_no_loss(
    two_workers: Path,
    encoded_store: Path,
    training_flags: list[str],
    drive: Submit,
    ray_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    output, flags = tmp_path / "killed", [*training_flags, "--workers", "2"]
    boundary = store.read_manifest(str(encoded_store)).counts.kept // 16 + 1  # the second epoch's first step
    assert boundary < 24
    job = begin(flags, output, ray_environment)
    wait_for(lambda: steps(output) >= boundary, job)
    os.kill(driver(output), signal.SIGKILL)
    assert job.wait(timeout=300) != 0
    drive(SCRIPT, *flags, "--output", str(output))
    for name in ("loss", "stream", "gradient_norm"):
        assert [row[name] for row in notes(output)] == [row[name] for row in notes(two_workers)]


@pytest.mark.long  # test_loop.py has the sentence, and test_workers.py how a worker's becomes the command's
def test_a_loss_that_is_not_finite_on_one_rank_stops_both_and_names_step_and_pair(
    copied_store: Path, training_flags: list[str], drive: Submit, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    pair_ids = store.kept_pairs(str(copied_store))["pair_id"].to_numpy()
    place = 16 * 7 + 3  # in the order of the first epoch: step 8, the first rank's share
    row = int(permute(np.array([place], np.uint64), len(pair_ids), seed=0, epoch=0)[0])
    overwrite_latents(copied_store, row, np.nan)  # as failing memory leaves them before they are written
    flags = [*training_flags, "--store", str(copied_store), "--workers", "2", "--output", str(output)]
    done = drive(SCRIPT, *flags, check=False)
    assert done.returncode != 0
    sentence = f"step 8: the loss of pairs {pair_ids[row]} is not finite; nothing was updated, the last checkpoint in"
    assert f"error: {sentence} {output} stands" in done.stdout.splitlines()
    assert len(notes(output)) == 7
    assert checkpoint.complete_steps(str(output)) == [6]
    assert checkpoint.read_state(checkpoint.folder_of(output, 6)).step == 6


def one_on_each_node(surroundings: dict[str, str]) -> list[str]:
    """Return flags of two workers so large that a node, which has this machine's CPUs, holds one of them."""
    asked = ["ray", "list", "nodes", "--detail", "--format", "json"]
    listed = subprocess.run(asked, env=surroundings, capture_output=True, text=True, check=True)
    cpus = json.loads(listed.stdout)[0]["resources_total"]["CPU"]
    return ["--workers", "2", "--cpus-per-worker", str(0.625 * cpus)]


def lose(node: psutil.Process, surroundings: dict[str, str]) -> None:
    """SIGKILL a node that holds one of two training workers: its raylet, its workers, all that it started."""
    there = node.children(recursive=True)
    workers = train_workers(surroundings)
    assert len(workers) == 2
    assert len(workers & {process.pid for process in there}) == 1
    for process in [*there, node]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def begin_on_both(flags: list[str], output: Path, surroundings: dict[str, str]) -> subprocess.Popen[bytes]:
    """Begin a run with a worker on each of two nodes.

    Ray Train, which with --min-workers may begin with fewer, does where it has not looked since the second node came.
    """
    for _ in range(5):
        job = begin(flags, output, surroundings, **LOST_SOON)
        wait_for(lambda: steps(output) >= 1, job)
        if len(train_workers(surroundings)) == 2:
            return job
        os.kill(driver(output), signal.SIGTERM)
        job.wait(timeout=300)
        shutil.rmtree(output)
    raise AssertionError("five times on one node")


@pytest.mark.long
@pytest.mark.parametrize("replaced", [True, False])
def test_sigkill_of_a_node_leaves_the_stream_and_with_another_in_its_place_the_losses(
    replaced: bool, two_workers: Path, training_flags: list[str], ray_environment: dict[str, str], tmp_path: Path
) -> None:
    output, expected = tmp_path / "run", notes(two_workers)
    flags = [*training_flags, *one_on_each_node(ray_environment), *(() if replaced else ("--min-workers", "1"))]
    with cluster_nodes.second_node(ray_environment, tmp_path / "node.log") as (node, _):
        job = begin_on_both(flags, output, ray_environment)
        wait_for(lambda: steps(output) >= 8, job)
        lose(node, ray_environment)
    with contextlib.ExitStack() as held:
        if replaced:
            cluster_nodes.wait_until(lambda: cluster_nodes.nodes(ray_environment) == 1)
            held.enter_context(cluster_nodes.second_node(ray_environment, tmp_path / "another.log"))
        assert job.wait(timeout=600) == 0
    found = notes(output)
    assert [row["stream"] for row in found] == [row["stream"] for row in expected]
    for name in ("loss", "gradient_norm"):
        values = [[row[name] for row in rows] for rows in (found, expected)]
        # One worker adds up gradients in another order than two: rounding, which grows with the steps.
        assert values[0] == (values[1] if replaced else pytest.approx(values[1], rel=1e-3))


@pytest.mark.long
def test_a_run_on_s3_outlives_a_node_that_is_lost_with_all_that_lay_on_disks(
    bucket: str, two_workers: Path, training_flags: list[str], ray_environment: dict[str, str], tmp_path: Path
) -> None:
    run = TrainConfig(output=f"{bucket}/{tmp_path.name}/run", data=DataConfig(cache=str(tmp_path / "cache")))
    mirror = open_mirror(run)
    assert mirror is not None
    flags = [*training_flags, *one_on_each_node(ray_environment), "--cache", str(tmp_path / "cache")]
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with cluster_nodes.second_node(ray_environment, tmp_path / "node.log") as (node, _):
        job = begin(flags, tmp_path / "run", ray_environment, on_s3=run.output, **LOST_SOON, **keys)
        wait_for(lambda: steps(mirror.local) >= 8, job)
        before = train_workers(ray_environment)
        lose(node, ray_environment)
        # Ray Train ends the other worker, whose disk this is too, and begins no group until there is room for two.
        cluster_nodes.wait_until(lambda: not before & train_workers(ray_environment))
        (tmp_path / "cache").rename(tmp_path / "lost")  # the run's copy, too
    cluster_nodes.wait_until(lambda: cluster_nodes.nodes(ray_environment) == 1)
    with cluster_nodes.second_node(ray_environment, tmp_path / "another.log"):
        assert job.wait(timeout=600) == 0
    for name in ("step", "stream", "loss", "gradient_norm"):
        assert [row[name] for row in notes(run.output)] == [row[name] for row in notes(two_workers)]
    assert checkpoint.complete_steps(run.output)[-1] == 24


@pytest.mark.long
def test_a_node_that_is_told_to_go_leaves_a_checkpoint_of_its_last_steps(
    training_flags: list[str], ray_environment: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    two = [*one_on_each_node(ray_environment), "--min-workers", "1"]
    endless = ["--steps", "100000", "--checkpoint-every", "100000"]  # so none is due
    with cluster_nodes.second_node(ray_environment, tmp_path / "node.log") as (node, _):
        job = begin_on_both([*training_flags, *two, *endless], output, ray_environment)
        wait_for(lambda: steps(output) >= 8, job)
        before = train_workers(ray_environment)
        node.terminate()  # as a kubelet does
        wait_for(lambda: bool(checkpoint.complete_steps(str(output))), job)
        (kept,) = checkpoint.complete_steps(str(output))
        assert kept >= 8
        wait_for(lambda: steps(output) > kept, job)  # and goes on, while the node is there
        wait_for(lambda: bool(train_workers(ray_environment) - before), job)  # and without it
        begun_again = steps(output)
        wait_for(lambda: steps(output) > begun_again, job)
    os.kill(driver(output), signal.SIGTERM)
    assert job.wait(timeout=300) != 0
    rows = notes(output)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) > kept
