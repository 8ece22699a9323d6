"""Ray Train on a cluster of the command's own, with fewer processes: the workers, and one that lets them meet.

Elsewhere it starts a process each for its controller, for Ray Data's sets, for asking an autoscaler, for watching nodes
that are taken away, and for freeing what a dead controller held. Here the command itself is the controller, the node
ends with the command, and so does all else.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from ray.runtime_context import RuntimeContext
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup

from pipelines.engine import own_node, ray_cluster

# The first asks the dashboard, and warns each time that nobody answers; the second hands out Ray Data's sets.
LEFT_OUT = ("PlacementGroupCleanerCallback", "DatasetsCallback")
WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


class OwnTrainer(TorchTrainer):
    """Ray Train's trainer, whose controller runs in this process."""

    def _create_default_callbacks(self) -> list[Any]:
        made = super()._create_default_callbacks()  # type: ignore[misc]  # mypy sees the first version
        return [one for one in made if type(one).__name__ not in LEFT_OUT]

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        os.environ.setdefault(WATCHER, "0")
        policy = settings["scaling_policy"]
        if isinstance(policy, FixedScalingPolicy):
            settings["scaling_policy"] = _Fixed(policy.scaling_config)
        controller = _Controller(**settings)
        logging.getLogger("ray.train").setLevel(ray_cluster.log_level())
        asyncio.run(controller.run())
        return controller.get_result()


class _Fixed(FixedScalingPolicy):
    """As many workers as asked for, on a node that no autoscaler could add to: nobody is asked for room."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask for nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Ask for nothing."""


class _Workers(WorkerGroup):
    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> dict[str, Any]:
        return dict(custom_runtime_env)  # Ray Train's variables are the workers' as they are the node's

    def _init_train_context_on_workers(self, *given: Any, **named: Any) -> None:
        # Ray Train asks which actor its controller is: none, and a worker of ours asks it nothing.
        with own_node.replaced(RuntimeContext, "current_actor", None):
            super()._init_train_context_on_workers(*given, **named)


class _Controller(TrainController):
    worker_group_cls = _Workers
