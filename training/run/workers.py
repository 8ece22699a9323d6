"""Runs the loop on a group of Ray Train workers: the driver's side, which imports none of the loop."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from typing import Any

import ray.train
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from infra.base import disk_errors, files, termination
from infra.base.errors import UserError
from pipelines.engine import quiet, ray_cluster
from pipelines.engine.failures import AGAIN
from training.checkpoints import checkpoint
from training.checkpoints.run_folder import RAY, REFUSAL, is_finished
from training.run import stopping
from training.run.entry import Losses, Torch, work
from training.settings.config import TrainConfig

POLL = "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"
POLL_SECONDS = "0.5"  # between the controller's looks at the workers; Ray's 2 are waited for at each change
PRINT_TWICE = "RAY_TRAIN_ENABLE_PRINT_PATCH"  # shows each line that a worker prints a second time, as one of a log
WATCH_NODES = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"  # a process that asks which nodes their owner takes back


def launch(config: TrainConfig, output: str) -> None:
    """Run the training loop on Ray Train workers; a lost worker restarts the group from the last checkpoint.

    Args:
        output: the run folder, local or on S3.

    Raises:
        UserError: with the loop's own sentence, or if the cluster cannot hold the workers, or if what the workers left
            cannot be read.
        SystemExit: after a checkpoint, if this process was sent SIGTERM.

    Where a cluster of this process's own ends, this process does, with a sentence.
    """
    ray_cluster.connect()
    use_gpu = ray_cluster.device_count() > 0
    _check_room(config, use_gpu)
    for name in (REFUSAL, stopping.STOP):
        files.remove(files.join(output, name))
    os.environ.setdefault(POLL, POLL_SECONDS)
    os.environ.setdefault(PRINT_TWICE, "0")
    if ray_cluster.is_own():  # whose one node ends with this command, and before it only by a fault
        os.environ.setdefault(WATCH_NODES, "0")
    trainer = _trainer(config, output, use_gpu)
    failure: Exception | None = None
    try:
        # From here on there are workers to tell.
        with quiet.about_itself(), stopping.passing_on(output), ray_cluster.leaving_with_it(lambda: _left(output)):
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
        print(_stopped(output), file=sys.stderr, flush=True)
        raise SystemExit(termination.EXIT)


def _stopped(output: str) -> str:
    return f"{output}: {stopping.Stopped(max(checkpoint.complete_steps(output), default=0))}"


def _left(output: str) -> tuple[str, int]:
    """Say what a run is left with whose cluster ended; a request to end may have gone to all processes, Ray's too."""
    if stopping.asked_by_driver(output):
        return _stopped(output), termination.EXIT
    return f"error: {output}: {ray_cluster.ENDED}; {AGAIN}", 2


class _Trainer(TorchTrainer):
    """Ray Train's trainer, without its own answer to Ctrl-C, and without processes that nothing here asks for.

    Ray's answer ends the run at once and this process with code 0, as if the training were done.

    Each of the processes imports Ray Train anew. One hands out Ray Data's sets, and training reads its store itself.
    Another frees what a dead controller held. It asks the dashboard, which a cluster of our own does not have, and
    warns each time that nobody answers. Such a cluster ends with its controller anyway.
    """

    def _register_sigint_handler(self, controller: object) -> None:
        """Leave Ctrl-C to stopping.passing_on."""

    def _create_default_callbacks(self) -> list[Any]:
        left_out = {"DatasetsCallback"} | ({"PlacementGroupCleanerCallback"} if ray_cluster.is_own() else set())
        made = super()._create_default_callbacks()  # type: ignore[misc]  # mypy sees the first version
        return [one for one in made if type(one).__name__ not in left_out]


def _trainer(config: TrainConfig, output: str, use_gpu: bool) -> TorchTrainer:
    storage, attempts = files.open_filesystem(files.join(output, RAY))
    least = config.min_workers
    return _Trainer(
        work,
        train_loop_config={"config": config, "log_level": ray_cluster.log_level()},
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
            logging_config=LoggingConfig(log_level=logging.getLevelName(ray_cluster.log_level())),  # type: ignore[call-arg]
            callbacks=[Losses()],  # type: ignore[list-item]  # mypy sees the first version
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
    """Refuse more workers than the cluster holds; say so where they have to wait for other jobs, as Ray would not."""
    total = ray.cluster_resources()
    least = config.min_workers or config.workers
    wanted = least * config.cpus_per_worker
    if wanted > total.get("CPU", 0) or (use_gpu and least > ray_cluster.device_count()):
        flag = "--workers" if config.min_workers is None else "--min-workers"
        raise UserError(
            f"{flag} {least}: needs {wanted:g} CPUs and {least if use_gpu else 0} GPUs, "
            f"the cluster has {total.get('CPU', 0):g} and {ray_cluster.device_count()}"
        )
    free = ray.available_resources().get("CPU", 0)
    if free < wanted:
        print(f"training waits for {wanted:g} CPUs; {free:g} of the cluster's {total['CPU']:g} are free", flush=True)


def _resources(config: TrainConfig, use_gpu: bool) -> dict[str, float]:
    return {"CPU": config.cpus_per_worker} | ({"GPU": 1.0} if use_gpu else {})
