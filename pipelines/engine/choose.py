"""Choose what runs a job: this process, or a Ray cluster. Neither is imported before it is chosen."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from infra.base import engines
from infra.base.errors import UserError
from pipelines.engine import clusters, in_process
from pipelines.engine.jobs import Job


class Engine(Protocol):
    """What commands ask of an engine. The modules in_process, own_copies and on_ray are those that there are."""

    def connect(self) -> None:
        """Get ready to run, for example join the cluster; raises UserError where that fails."""

    def device_count(self) -> int:
        """Return the number of GPUs that there are for a job's copies."""

    def run(self, job: Job) -> None:
        """Run a job to its end; rows that its checkpoint holds are not computed again."""

    def call(self, function: Callable[..., Any], *arguments: Any, gpus: float = 0.0) -> Any:
        """Run a function once, where a copy of a step would run, and return what it returns."""

    def map_files(self, function: Callable[[str], Any], paths: Sequence[str]) -> list[Any]:
        """Apply a function to each path and return the results in order."""


class _Current:
    """The engine that the last `connect` chose, for this process."""

    engine: Engine = in_process


def current() -> Engine:
    """Return the engine that `connect` chose last; before that, this process."""
    return _Current.engine


def connect(flag: str = "", copies: int = 0, cluster_only: str | None = None) -> None:
    """Choose an engine, say which and why, and get it ready; `current` returns it then.

    Args:
        flag, copies, cluster_only: as for `choose`.

    Raises:
        UserError: if --engine and the other flags contradict each other, or a named cluster does not answer.
    """
    if choose_and_say(flag, copies, cluster_only) == "local":
        _Current.engine = in_process
        in_process.connect()
    else:
        _Current.engine = _on_cluster()


def choose_and_say(flag: str = "", copies: int = 0, cluster_only: str | None = None) -> engines.Name:
    """Choose an engine as `choose` does, say which and why, and return its name."""
    name, why = choose(flag, copies, cluster_only)
    _say_once(f"engine: {'this process' if name == 'local' else 'Ray'}, as {why}")
    if name == "ray":
        clusters.take_token()
    return name


def choose(flag: str = "", copies: int = 0, cluster_only: str | None = None) -> tuple[engines.Name, str]:
    """Choose an engine for a job.

    Args:
        flag: that asks for copies, or for workers; empty where there is none.
        copies: as asked for; 0: one per GPU, or one where there is no GPU.
        cluster_only: a flag, with its value, that means something on a cluster only; None: there is no such.

    Returns:
        Its name, and why it is this one: the end of a sentence.

    Raises:
        UserError: if --engine local is given with flags that need a cluster, or RAY_ADDRESS cannot be used.
    """
    asked = engines.asked()
    if asked == "ray":
        return "ray", "--engine ray asks for it"
    needs = f"{flag} {copies}" if copies > 1 else cluster_only
    if asked == "local":
        if needs:
            raise UserError(f"--engine local: one process cannot do what {needs} asks for; leave one of the two out")
        return "local", "--engine local asks for it"
    if _inside_ray():
        return "ray", "this is a part of a Ray job"
    cluster = clusters.named()
    if cluster:
        return "ray", f"{cluster.named_by} names {cluster.address}"
    if needs:
        return "ray", f"{needs} asks for it"
    gpus = 0 if copies else in_process.gpus_here()
    if gpus > 1:
        return "ray", f"each of this machine's {gpus} GPUs takes a copy"
    return "local", "no cluster is named and one copy is enough"


def _inside_ray() -> bool:
    """Say whether this process belongs to a cluster that it did not start itself, for one of its other jobs."""
    ray = sys.modules.get("ray")  # whoever is inside has imported it
    cluster = sys.modules.get("pipelines.engine.ray_cluster")
    is_own = cluster is not None and cluster.is_own()
    return ray is not None and bool(ray.is_initialized()) and not is_own


def _on_cluster() -> Engine:
    """Join or start a cluster, and return what runs jobs on it."""
    from pipelines.engine import ray_cluster  # which takes a second

    ray_cluster.connect()
    if ray_cluster.is_own():
        from pipelines.engine import own_copies

        return own_copies
    from pipelines.engine import on_ray  # which takes another

    return on_ray


@functools.cache
def _say_once(line: str) -> None:
    print(line, flush=True)
