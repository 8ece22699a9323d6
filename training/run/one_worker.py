"""One of Ray Train's workers, which runs the loop."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any

import ray.train
import ray.train.torch
import torch

from infra.base import disk_errors, files, metrics, object_storage
from infra.base.errors import UserError, comes_again
from pipelines.engine import ray_cluster
from training.checkpoints.run_folder import REFUSAL
from training.run import run_page, stopping
from training.run.assembly import Rank
from training.run.loop import train
from training.settings.config import TrainConfig


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
