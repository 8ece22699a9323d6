"""Runs the loop on a group of Ray Train workers."""

from __future__ import annotations

import os
import sys
import uuid
from functools import partial
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from infra.base import disk_errors, files, metrics, object_storage, termination
from infra.base.errors import UserError, comes_again
from pipelines.engine import ray_cluster
from training.checkpoints import checkpoint
from training.checkpoints.run_folder import RAY, REFUSAL, is_finished
from training.run import run_page, stopping
from training.run.assembly import Rank
from training.run.entry import Torch, work
from training.run.loop import train
from training.settings.config import TrainConfig

POLL = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
POLL_SECONDS = "0.5"  # between the controller's looks at the workers; Ray's 2 are waited for at each change


def launch(config: TrainConfig, output: str) -> None:
    """Run the training loop on Ray Train workers; a lost worker restarts the group from the last checkpoint.

    Args:
        output: the run folder, local or on S3.

    Raises:
        UserError: with the loop's own sentence, or if the cluster cannot hold the workers, or if what the workers left
            cannot be read.
        SystemExit: after a checkpoint, if this process was sent SIGTERM.
    """
    ray_cluster.connect()
    use_gpu = ray_cluster.device_count() > 0
    _check_room(config, use_gpu)
    for name in (REFUSAL, stopping.STOP):
        files.remove(files.join(output, name))
    os.environ.setdefault(POLL, POLL_SECONDS)
    trainer = _trainer(config, output, use_gpu)
    failure: Exception | None = None
    try:
        with stopping.passing_on(output):  # after connect(), which sets a handler of its own
            trainer.fit()
    except Exception as error:
        failure = error
    sentence = _refusal(output, failure)
    if sentence:
        raise UserError(sentence) from failure
    if failure:
        raise failure
    files.remove(files.join(output, RAY))
    if stopping.asked_by_driver(output) and not is_finished(output, config.steps):
        step = max(checkpoint.complete_steps(output), default=0)
        print(f"{output}: {stopping.Stopped(step)}", file=sys.stderr, flush=True)
        raise SystemExit(termination.EXIT)


class _Trainer(TorchTrainer):
    """Ray Train's trainer, without a process that a cluster of our own has no use for.

    That process frees what a dead controller held. It asks the dashboard, which such a cluster does not have, and warns
    each time that nobody answers. A cluster of our own ends with its controller anyway.
    """

    def _create_default_callbacks(self) -> list[Any]:
        made = super()._create_default_callbacks()  # type: ignore[misc]  # mypy sees the first version
        if not ray_cluster.is_own():
            return made
        return [one for one in made if type(one).__name__ != "PlacementGroupCleanerCallback"]


def _trainer(config: TrainConfig, output: str, use_gpu: bool) -> TorchTrainer:
    storage, attempts = files.open_filesystem(files.join(output, RAY))
    least = config.min_workers
    return _Trainer(
        work,
        train_loop_config={"config": config},
        torch_config=Torch(),
        scaling_config=ScalingConfig(
            num_workers=config.workers if least is None else (least, config.workers),  # type: ignore[arg-type]
            use_gpu=use_gpu,
            resources_per_worker=_resources(config, use_gpu),
        ),
        # A name of its own for each attempt: what is resumed from is our last complete checkpoint, whose marker is
        # exact, not Ray Train's snapshot, which can lag behind it.
        run_config=RunConfig(
            name=f"attempt-{uuid.uuid4().hex[:8]}",
            storage_path=attempts,
            storage_filesystem=storage if files.is_remote(output) else None,
            failure_config=FailureConfig(  # type: ignore[call-arg]
                max_failures=config.max_failures, max_preemption_failures=config.max_preemptions
            ),
        ),
    )


def _refusal(output: str, failure: Exception | None) -> str | None:
    """Return the sentence that a worker refused with; None without a refusal.

    The worker leaves it as a file, or Ray Train brings it where the file could not be written. Where there is neither,
    and a file that cannot be read, the sentence says that.
    """
    failures = failure.worker_failures.values() if isinstance(failure, WorkerGroupError) else ()
    brought = next((str(error) for error in failures if isinstance(error, UserError)), None)
    try:
        return _read_refusal(files.join(output, REFUSAL)) or brought
    except UserError as error:
        return brought or str(error)


def _read_refusal(path: str) -> str | None:
    try:
        return files.read_json(path)["sentence"] if files.exists(path) else None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({disk_errors.reason(error)})") from error


def _check_room(config: TrainConfig, use_gpu: bool) -> None:
    total = ray.cluster_resources()
    least = config.min_workers or config.workers
    wanted = least * config.cpus_per_worker
    if wanted > total.get("CPU", 0) or (use_gpu and least > ray_cluster.device_count()):
        flag = "--workers" if config.min_workers is None else "--min-workers"
        raise UserError(
            f"{flag} {least}: needs {wanted:g} CPUs and {least if use_gpu else 0} GPUs, "
            f"the cluster has {total.get('CPU', 0):g} and {ray_cluster.device_count()}"
        )


def _resources(config: TrainConfig, use_gpu: bool) -> dict[str, float]:
    return {"CPU": config.cpus_per_worker} | ({"GPU": 1.0} if use_gpu else {})


def run_worker(arguments: dict[str, Any]) -> None:
    """Run the loop as one Ray Train worker.

    Any rank's refusal, or error that would come again, reaches the driver as a file. It is raised too, which ends the
    other ranks. Ray Train takes that for a lost worker and starts again; the second attempt sees the file and returns
    at once. Where disk or S3 takes no file, stderr says so, and the driver has the refusal from Ray Train once that
    starts no more attempts.

    Raises:
        UserError: the loop's; or if the run folder cannot be reached, which leaves no file: Ray Train may try again.
    """
    config: TrainConfig = arguments["config"]
    output = files.resolve(config.output)
    refusal = files.join(output, REFUSAL)
    if files.exists(refusal) or stopping.asked_by_driver(output):
        return
    context = ray.train.get_context()
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    device = ray.train.torch.get_device()
    assert isinstance(device, torch.device)
    run = "/".join(output.rstrip("/").split("/")[-3:])  # the last part alone is the same in each trial of a sweep
    exports = context.get_world_rank() == 0  # the others' steps and checkpoints are the same
    rank = Rank(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=device,
        on_step=partial(_report, run if exports else None),
        on_checkpoint=lambda note: ray_cluster.export(metrics.kept(note, run)) if exports else None,
        on_more_to_see=run_page.write,
        leaving=_leaving,
    )
    try:
        train(config, rank)
    except stopping.Stopped:
        if not stopping.asked_by_driver(output):  # a worker's node is taken away: Ray Train starts the rest again
            raise
    except Exception as error:
        refused = object_storage.refusal_in(error) or comes_again(error, "a worker")
        if refused is None:
            raise
        _leave(refusal, refused)
        raise refused from error


def _leaving() -> tuple[str, ...]:
    """Ask Ray Train which of the run's nodes are to be taken away; all workers wait for one another here."""
    preemption = ray.train.get_preemption_info()
    return tuple(preemption.preempted_node_ids) if preemption else ()


def _leave(path: str, error: UserError) -> None:
    try:
        files.write_json(path, {"sentence": str(error)})
    except OSError as failure:
        print(f"{path}: could not be written ({disk_errors.reason(failure)})", file=sys.stderr, flush=True)


def _report(run: str | None, note: dict[str, Any]) -> None:
    """Tell Ray Train of a step now and then, and Prometheus of each; run: its name, where this worker exports it."""
    if run is not None:
        ray_cluster.export(metrics.trained(note, run))
    if note["step"] % 10 == 0:
        ray.train.report({name: note[name] for name in ("step", "loss")})
