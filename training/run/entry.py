"""What Ray Train is handed: light, as its controller imports this too and runs none of what the workers do."""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchConfig

from infra.base import termination


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


def work(arguments: dict[str, Any]) -> None:
    """Run the loop as one Ray Train worker, which alone imports what that takes."""
    from training.run.one_worker import run_worker

    run_worker(arguments)
