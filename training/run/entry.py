"""What Ray Train is handed: light, as its controller imports this too and runs none of what the workers do."""

from __future__ import annotations

import logging
from typing import Any

from ray.train import UserCallback
from ray.train.torch import TorchConfig

from infra.base import logs, termination
from infra.base.errors import UserError


class Torch(TorchConfig):
    """PyTorch's process group, and a handler of SIGTERM in each worker's main thread, where alone one can be set."""

    @property
    def backend_cls(self) -> type:
        """Return what starts a group of workers."""
        return _TorchBackend


class _TorchBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(termination.listen)


class Losses(UserCallback):
    """Says in one line which workers ended early, and why; Ray Train's own log has every traceback."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Print the line, but for a refusal, which the command says itself, and a stop on request."""
        del run_context
        lost = {rank: error for rank, error in worker_exceptions.items() if not _is_told(error)}
        if lost:
            print(describe_lost(lost), flush=True)


def _is_told(error: Exception) -> bool:
    return isinstance(error, UserError) or type(error).__name__ == "Stopped"


def describe_lost(lost: dict[int, Exception]) -> str:
    """Say which workers ended early, by rank, with the first line of what the first of them raised."""
    ranks = sorted(lost)
    error = lost[ranks[0]]
    reason = next(iter(str(error).splitlines()), "")
    who = f"worker {ranks[0]}" if len(ranks) == 1 else f"workers {', '.join(map(str, ranks))}"
    return f"{who} ended early ({type(error).__name__}: {reason[:200] or 'no reason given'})"


def work(arguments: dict[str, Any]) -> None:
    """Run the loop as one Ray Train worker, which alone imports what that takes."""
    logs.LOGGER.setLevel(logging.WARNING)
    logging.getLogger().setLevel(arguments["log_level"])  # of all others, as Ray Train logs each report of a step
    from training.run.one_worker import run_worker

    run_worker(arguments)
