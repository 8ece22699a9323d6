"""The one file of this folder that knows Ray: runs the loop on a group of Ray Train workers."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from infra import files
from infra.errors import UserError
from pipelines import engine
from training.config import TrainConfig
from training.loop import Rank, train

REFUSAL = "refusal.json"


def launch(config: TrainConfig, output: Path) -> None:
    """Run the training loop on Ray Train workers; a lost worker restarts the group from the last checkpoint.

    Raises:
        UserError: with the loop's own sentence, or if the cluster cannot hold the workers.
    """
    engine.connect()
    use_gpu = engine.device_count() > 0
    total = ray.cluster_resources()
    wanted = config.workers * config.cpus_per_worker
    if wanted > total.get("CPU", 0) or (use_gpu and config.workers > engine.device_count()):
        raise UserError(
            f"--workers {config.workers}: needs {wanted:g} CPUs and {config.workers if use_gpu else 0} GPUs, "
            f"the cluster has {total.get('CPU', 0):g} and {engine.device_count()}"
        )
    files.remove(str(output / REFUSAL))
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={"config": config},
        scaling_config=ScalingConfig(
            num_workers=config.workers, use_gpu=use_gpu, resources_per_worker=_resources(config, use_gpu)
        ),
        # A name of its own for each attempt: what is resumed from is our last complete checkpoint, whose marker is
        # exact, not Ray Train's snapshot, which can lag behind it.
        run_config=RunConfig(
            name=f"attempt-{uuid.uuid4().hex[:8]}",
            storage_path=str(output / "ray"),
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )
    try:
        trainer.fit()
    except Exception:
        if not (output / REFUSAL).exists():
            raise
    if (output / REFUSAL).exists():
        raise UserError(files.read_json(str(output / REFUSAL))["sentence"])
    files.remove(str(output / "ray"))


def _resources(config: TrainConfig, use_gpu: bool) -> dict[str, float]:
    return {"CPU": config.cpus_per_worker} | ({"GPU": 1.0} if use_gpu else {})


def run_worker(arguments: dict[str, Any]) -> None:
    """Run the loop as one Ray Train worker.

    Any rank's refusal reaches the driver as a file. It is raised too, which ends the other ranks; Ray Train takes that
    for a lost worker and starts again, and the second attempt sees the file and returns at once.
    """
    config: TrainConfig = arguments["config"]
    refusal = Path(files.resolve(config.output)) / REFUSAL
    if refusal.exists():
        return
    context = ray.train.get_context()
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    device = ray.train.torch.get_device()
    assert isinstance(device, torch.device)
    rank = Rank(context.get_world_rank(), context.get_world_size(), device, _report)
    try:
        train(config, rank)
    except UserError as error:
        files.write_json(str(refusal), {"sentence": str(error)})
        raise


def _report(metrics: dict[str, Any]) -> None:
    if metrics["step"] % 10 == 0:
        ray.train.report(metrics)
