"""Ray Train on a cluster of the command's own: what it leaves out, by names that a later Ray may have changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ray.runtime_context import RuntimeContext
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api import data_parallel_trainer
from ray.train.v2.api.result import Result

from pipelines.engine import ray_cluster
from training.run import own_trainer, workers
from training.settings.config import TrainConfig


@pytest.fixture
def trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> own_trainer.OwnTrainer:
    """Return the trainer that a run on a cluster of its own gets."""
    monkeypatch.setattr(ray_cluster, "is_own", lambda: True)
    made = workers._trainer(TrainConfig(), str(tmp_path / "run"), use_gpu=False)
    assert isinstance(made, own_trainer.OwnTrainer)
    return made


def test_the_controller_runs_in_the_driver(trainer: own_trainer.OwnTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    result = Result(metrics=None, checkpoint=None, error=None, path=None)

    def init(self: TrainController, **settings: Any) -> None:
        seen.update(settings, kind=type(self))

    async def run(_: TrainController) -> None:
        seen["pid"] = os.getpid()

    monkeypatch.setattr(data_parallel_trainer, "ObjectRefWrapper", lambda function: function)  # would need a cluster
    monkeypatch.setattr(TrainController, "__init__", init)
    monkeypatch.setattr(TrainController, "run", run)
    monkeypatch.setattr(TrainController, "get_result", lambda _: result)
    monkeypatch.setenv(own_trainer.WATCHER, "")
    monkeypatch.delenv(own_trainer.WATCHER)
    assert trainer.fit() is result
    assert seen["pid"] == os.getpid()
    assert seen["kind"].worker_group_cls is own_trainer._Workers
    assert not {type(one).__name__ for one in seen["callbacks"]} & set(own_trainer.LEFT_OUT)
    assert isinstance(seen["scaling_policy"], own_trainer._Fixed)
    assert os.environ[own_trainer.WATCHER] == "0"


def test_ray_train_may_ask_which_actor_its_controller_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    usual = RuntimeContext.current_actor

    def init_train_context(*_: Any) -> None:
        asked.append(RuntimeContext.current_actor)

    monkeypatch.setattr(WorkerGroup, "_init_train_context_on_workers", init_train_context)
    group = object.__new__(own_trainer._Workers)
    group._init_train_context_on_workers([], None, {})
    init_train_context()
    assert asked == [None, usual]


def test_workers_ask_for_no_environment_of_their_own_as_no_agent_could_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(workers.POLL, "0.5")
    assert WorkerGroup._get_worker_runtime_env({}) == {"env_vars": {workers.POLL: "0.5"}}
    assert own_trainer._Workers._get_worker_runtime_env({}) == {}


def test_no_autoscaler_is_asked_for_room() -> None:
    """Each method that Ray Train's policy asks with must be one that ours replaces, or that does nothing then."""
    policy = own_trainer._Fixed(ScalingConfig(num_workers=2))
    policy.after_controller_start(None)
    assert isinstance(policy.make_decision_for_non_running_worker_group(), ResizeDecision)
    assert isinstance(policy.make_decision_for_running_worker_group(None, None), NoopDecision)
    policy.before_controller_abort()
    assert policy._coordinator_client is None


def test_what_is_left_out_is_still_called_so(trainer: own_trainer.OwnTrainer) -> None:
    usual = [type(one).__name__ for one in data_parallel_trainer.DataParallelTrainer._create_default_callbacks(trainer)]
    assert set(own_trainer.LEFT_OUT) <= set(usual)
