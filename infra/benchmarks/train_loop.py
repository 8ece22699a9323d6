"""What the training loop costs over a bare PyTorch step: `python infra/benchmarks/train_loop.py --store runs/store`.

Ours: the loop's own step with its loader, draws, checks and notes. Bare: the same two forward passes, backward,
clipping and AdamW on one resident batch. Both in this process, on one thread, in turns.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from infra.base import cli
from infra.base.places import PathText
from infra.benchmarks.measure import alternate
from training.method import forward, objectives
from training.run import assembly, keeping, loop
from training.run.preflight import check_config
from training.settings.config import DataConfig, TrainConfig


@dataclass(frozen=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    store: PathText = "runs/store"
    """Latent store to train on."""
    steps: int = 10
    """Steps per round."""
    rounds: int = 9
    json: PathText | None = None
    """File for the figures."""


def main(config: BenchmarkConfig) -> None:
    """Measure pairs/s of the training loop against a bare PyTorch step."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(
            TrainConfig(output=folder, data=DataConfig(store=config.store, global_batch=32, micro_batch=16)),
            steps=10**6,
        )
        check_config(settings)
        trainer = assembly.build(settings, assembly.Rank())
        keeping.resume(trainer)
        pairs = config.steps * settings.data.global_batch
        batches = loop.step_shares(trainer, range(10**6))
        resident = [batch.to(trainer.rank.device) for batch in next(batches)]

        def ours() -> float:
            started = time.perf_counter()
            for step in range(config.steps):
                began = time.perf_counter()
                mine = next(batches)
                waited = time.perf_counter() - began
                record = loop.take_step(trainer, trainer.policy, mine, step)
                trainer.journal.step(record.finish(time.perf_counter() - began, waited, settings.data.global_batch))
            return pairs / (time.perf_counter() - started)

        def bare() -> float:
            started = time.perf_counter()
            for _ in range(config.steps):
                for batch in resident:
                    policy = forward.pair_errors(trainer.backbone, trainer.policy, batch, torch.float32)
                    reference = trainer.reference.errors(batch)
                    losses = objectives.loss(settings.objective, policy, reference)
                    (losses.mean() / len(resident)).backward()
                torch.nn.utils.clip_grad_norm_(trainer.policy.parameters(), 1.0)
                trainer.optimizer.step()
                trainer.optimizer.zero_grad(set_to_none=True)
            return pairs / (time.perf_counter() - started)

        alternate(ours, bare, config.rounds, "pairs/s", config.json, folder=str(Path(config.store)))


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
