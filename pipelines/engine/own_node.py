"""Ray for one command alone: a node without the processes that only a cluster of several users needs.

`ray.init` starts a server and an agent of a dashboard, whether or not there is a dashboard, an agent for environments
that jobs ask for, an autoscaler, and a worker in reserve for each core. Each imports for a second or three, and the
node waits for the agents. Nobody asks the first three, and the fourth could start no node.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray import _raylet
from ray._private import node, services
from ray._private.parameter import RayParams

_core: Any = _raylet  # whose stubs name few of its functions
NO_RESERVE = {"prestart_worker_first_driver": False}
NOBODY = -1  # the port that Ray itself notes for an agent that does not listen
AGENTS = ("--dashboard_agent_command=", "--runtime_env_agent_command=")
PORTS = (
    _core.METRICS_AGENT_PORT_NAME,
    _core.METRICS_EXPORT_PORT_NAME,
    _core.DASHBOARD_AGENT_LISTEN_PORT_NAME,
    _core.RUNTIME_ENV_AGENT_PORT_NAME,
)
# The node ends where an agent does, so something must live as long as the node, and no longer.
IDLE = subprocess.list2cmdline(["sh", "-c", "while kill -0 $PPID; do sleep 1; done"])


class _Node(node.Node):  # type: ignore[misc]  # Ray's has no types
    def __init__(self, ray_params: RayParams, **how: Any) -> None:
        ray_params.update(no_monitor=True)
        super().__init__(ray_params, **how)

    def start_api_server(self, **_: Any) -> None:
        """Start none."""

    def start_raylet(self, *given: Any, **named: Any) -> None:
        """Start the node's main process, which finds the ports of its agents noted."""
        for name in PORTS:
            _core.persist_port(self._session_dir, self._node_id, name, NOBODY)
        start = services.start_ray_process
        with replaced(services, "start_ray_process", lambda words, *rest, **how: start(_idle(words), *rest, **how)):
            super().start_raylet(*given, **named)


def start(log_level: int) -> None:
    """Start a node that listens on loopback and ends with this process, and join it.

    Args:
        log_level: from which on Ray's own logs reach the terminal.
    """
    with replaced(node, "Node", _Node):  # ray.init has no settings for what ours leaves out
        ray.init(
            "local",
            _node_ip_address="127.0.0.1",
            include_dashboard=False,
            logging_level=log_level,
            _system_config=dict(NO_RESERVE),
        )


def _idle(words: Sequence[str]) -> list[str]:
    """Return a node's command with agents that do nothing."""
    agents = {word: begin for word in words for begin in AGENTS if word.startswith(begin)}
    return [f"{agents[word]}{IDLE}" if word in agents else word for word in words]


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Put another value into one of Ray's modules or classes inside the block."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
