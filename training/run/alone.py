"""Runs the loop in this process, as the only worker, without Ray; workers.py does so on a cluster."""

from __future__ import annotations

import os
import sys

import torch

from infra.base import files, garbage, object_storage, termination
from infra.base.errors import comes_again
from training.checkpoints.run_folder import RAY, REFUSAL
from training.run import run_page, stopping
from training.run.assembly import Rank
from training.run.loop import train
from training.settings.config import TrainConfig


def launch(config: TrainConfig, output: str) -> None:
    """Run the training loop as the only worker; an error ends it, and the same command goes on.

    Args:
        output: the run folder, local or on S3.

    Raises:
        UserError: with the loop's own sentence.
        SystemExit: after a checkpoint, if this process was sent SIGTERM.
    """
    for name in (REFUSAL, stopping.STOP, RAY):  # of an earlier command that was killed
        files.remove(files.join(output, name))
    try:
        train_alone(config, output)
    except stopping.Stopped as stopped:
        print(f"{output}: {stopped}", file=sys.stderr, flush=True)
        raise SystemExit(termination.EXIT) from None
    except Exception as error:
        refused = object_storage.refusal_in(error) or comes_again(error, "the training")
        if refused is None or refused is error:
            raise
        raise refused from error


def train_alone(config: TrainConfig, _output: str) -> None:
    """Run the loop on the first GPU, or else on the CPU with as many threads as a worker of Ray's has.

    Raises:
        Stopped: after a checkpoint, if this process was sent SIGTERM.
    """
    garbage.search_as_usual()
    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    train(config, Rank(device=device, on_more_to_see=run_page.write))
