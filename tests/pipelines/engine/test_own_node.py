"""A node for one command alone: what of Ray it leaves out, by names that a later Ray may have changed."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import pytest
from ray._private import node, services
from ray._private.parameter import RayParams

from pipelines.engine import own_node, ray_cluster


def test_ray_makes_our_node_and_afterwards_its_own_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[type, dict[str, Any]]] = []

    def init(*_: str, **settings: Any) -> None:
        made.append((node.Node, settings))
        raise RuntimeError("no port is free")

    usual = node.Node
    monkeypatch.setattr(ray_cluster.ray, "init", init)
    with pytest.raises(RuntimeError):
        own_node.start(logging.WARNING)
    [(kind, settings)] = made
    assert issubclass(kind, usual)
    assert kind is not usual
    assert node.Node is usual
    assert settings["_node_ip_address"] == "127.0.0.1"


def test_our_node_starts_neither_an_autoscaler_nor_a_server_of_a_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def init(self: node.Node, ray_params: RayParams, **_: Any) -> None:
        self._ray_params = ray_params
        self._gcs_address = self._gcs_client = None
        self.start_head_processes()  # Ray's own

    monkeypatch.setattr(node.Node, "__init__", init)
    monkeypatch.setattr(node.Node, "_logs_dir", "", raising=False)
    monkeypatch.setattr(node.Node, "get_gcs_client", lambda _: True)
    for name in ("start_gcs_server", "_write_cluster_info_to_kv", "start_monitor", "start_api_server"):
        monkeypatch.setattr(node.Node, name, lambda *_, name=name, **__: started.append(name))
    own_node._Node(RayParams())
    assert started == ["start_gcs_server", "_write_cluster_info_to_kv"]


def test_the_agents_of_our_node_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "raylet",
        "--dashboard_agent_command=python agent.py --node-id=1",
        "--head",
        "--runtime_env_agent_command=x",
    ]
    idle = 'sh -c "while kill -0 $PPID; do sleep 1; done"'
    started: list[list[str]] = []
    noted: dict[str, int] = {}
    monkeypatch.setattr(services, "start_ray_process", lambda given, *_, **__: started.append(given))
    monkeypatch.setattr(own_node._core, "persist_port", lambda *given: noted.update({given[2]: given[3]}))
    monkeypatch.setattr(node.Node, "start_raylet", lambda *_: services.start_ray_process(words, "raylet"))
    ours = object.__new__(own_node._Node)
    ours._session_dir = ours._node_id = ""
    ours.start_raylet("plasma", "fallback", 1)
    agents = [f"--dashboard_agent_command={idle}", f"--runtime_env_agent_command={idle}"]
    assert started == [["raylet", agents[0], "--head", agents[1]]]
    assert len(noted) == 4
    assert set(noted.values()) == {-1}


def test_a_node_s_command_still_names_its_agents_so() -> None:
    assert all(begin in inspect.getsource(services.start_raylet) for begin in own_node.AGENTS)
