"""What processes that are forked for a test have loaded before: some eight seconds of CPU less for each of them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any

import torch

LOADED = [
    "infra.base.torchvision_guard",  # before diffusers
    "labelers.labels.relabel",
    "pipelines.experiments.evaluate_model",
    "pipelines.experiments.sweep",
    "pipelines.latents.encode_latents",
    "pipelines.latents.encode_passes",
    "training.reference.encode_reference",
    "training.run.loop",
    "training.run.train_dpo",
]


def forking() -> ForkServerContext:
    """Return the context whose processes are forked from one that has loaded the libraries, and started no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context


def run_ranks(work: Callable[..., None], *arguments: Any, ranks: int = 2) -> None:
    """Call work(rank, *arguments) in a process for each rank, and wait for all of them."""
    forking()
    given = (dict(os.environ), work, arguments)
    torch.multiprocessing.start_processes(_as_rank, given, nprocs=ranks, start_method="forkserver")


def _as_rank(rank: int, surroundings: dict[str, str], work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(surroundings)  # the process that forks has those of its own start
    work(rank, *arguments)
