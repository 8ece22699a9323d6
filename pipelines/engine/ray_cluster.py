"""A Ray cluster, joined or started, and what is asked of it beside Ray Data's jobs: functions, GPUs, metrics.

What trains on Ray imports this and not on_ray.py, as Ray Data takes a second to import.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ray
from ray.util import metrics as ray_metrics

from infra.base import logs, metrics, object_storage, termination
from infra.base.errors import UserError
from pipelines.engine import clusters, ray_folder
from pipelines.engine.failures import AGAIN
from pipelines.engine.jobs import SMALL_CPUS

RAYLET = "raylet"  # the process of a node
ENDED = "Ray's own process on this machine ended, perhaps killed for want of memory"
LOOK_EVERY = 1.0  # seconds between looks at it
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
BATCH_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]  # bounds of the histogram's buckets


class _Own:
    started = False  # whether this process has a cluster of its own, which ends with it
    copies: list[Any] = []  # noqa: RUF012  (of steps, there, kept for the next job of the same command)


def is_own() -> bool:
    """Say whether this process started its cluster."""
    return _Own.started


def own_is_alive() -> bool:
    """Say whether Ray's process of this machine runs, a child of this one; Ray itself notices its end only later."""
    import psutil  # only where a cluster of our own is watched, or something died

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name() == RAYLET and child.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def own_copies() -> list[Any]:
    """Return the actors that keep copies of steps on this process's own cluster, to be used and added to."""
    return _Own.copies


def connect() -> None:
    """Join the Ray cluster that somebody named, or start one for this process alone; each command does so first.

    Raises:
        UserError: if the named cluster does not answer, or is reachable beyond loopback and asks for no token, or if
            that of this process does not start.
    """
    while _Own.copies:  # what an earlier command of this process kept would hold cores and memory
        ray.kill(_Own.copies.pop())
    if ray.is_initialized():
        return
    cluster = clusters.named()
    if cluster is None:  # "local", as Ray would join any cluster of this machine otherwise
        folder = ray_folder.make()
        try:
            _init("local", _node_ip_address="127.0.0.1", include_dashboard=False, _temp_dir=folder)
        except Exception as error:  # Ray has no class of its own for a node that does not start in time
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise UserError(
                f"Ray did not start on this machine ({reason}); if other work keeps it busy, give the same command "
                "again later"
            ) from error
        _Own.started = True
        return
    clusters.refuse_dead(cluster)
    dashboard = _init(cluster.address).dashboard_url
    hosts = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if hosts - LOOPBACK and not _asks_for_token(dashboard):
        raise UserError("this Ray cluster listens beyond loopback and asks for no token; set RAY_AUTH_MODE=token")


def _init(address: str, **settings: Any) -> Any:
    """Join or start a cluster; SIGTERM does what it did before, as Ray's own handler ends without a word, with 15."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        return ray.init(address, logging_level=log_level(), **settings)
    except SystemExit:  # of that handler
        raise SystemExit(termination.EXIT) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def ending_own_early() -> Iterator[None]:
    """End this process's own cluster where the block fails: at the process's end Ray would tell of lost work."""
    try:
        yield
    except BaseException:
        _Own.copies.clear()
        _Own.started = False
        ray.shutdown()
        raise


@contextlib.contextmanager
def leaving_with_it(last_words: Callable[[], tuple[str, int]]) -> Iterator[None]:
    """End this process in the block once its own cluster has ended; Ray waits a minute, and says nothing.

    An exception would not do: where a signal's handler raises one, Ray's waiting makes a SystemError of it.

    Args:
        last_words: says what to print, and the exit code.
    """
    if not is_own():
        yield
        return
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(LOOK_EVERY):
            # The signal that ended Ray may have come here too. Ray's waiting lets it through once a second.
            if not own_is_alive() and not is_over.wait(3 * LOOK_EVERY):
                words, code = last_words()
                sys.stdout.flush()
                print(words, file=sys.stderr, flush=True)
                os._exit(code)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        is_over.set()
        watching.join()


def log_level() -> int:
    """Return from which level on Ray's own logs reach the terminal: none, as what ends a job is raised too."""
    return logging.INFO if logs.is_verbose() else logging.CRITICAL


@contextlib.contextmanager
def ending_on_sigterm(output: str) -> Iterator[None]:
    """End the process on SIGTERM inside the block, with its locks released and without Ray's own way out.

    Ray's way ends its threads beside those of a job that still runs, and now and then in SIGABRT. What is written is
    recorded, the cluster notices that its driver is gone, and a cluster of our own ends with us.

    Args:
        output: the folder that the job writes to.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        atexit.register(_leave)  # what is registered last runs first, before Ray's
        print(f"{output}: stopped on request; {AGAIN}", file=sys.stderr, flush=True)
        raise SystemExit(termination.EXIT)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(termination.EXIT)


def _asks_for_token(dashboard: str | None) -> bool:
    """Say whether a cluster asks for a token: its dashboard tells; where that is out of reach, what this process has.

    A client's own token says nothing of the server: one that asks for none takes those who bring one, too.
    """
    if dashboard:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError):
            asked = http.client.HTTPConnection(dashboard, timeout=5)
            asked.request("GET", "/api/authentication_mode")
            answer = asked.getresponse()
            if answer.status == http.HTTPStatus.OK:
                return json.load(answer)["authentication_mode"] == "token"
    return os.environ.get("RAY_AUTH_MODE") == "token"


def device_count() -> int:
    """Return the number of GPUs in the cluster."""
    return int(ray.cluster_resources().get("GPU", 0))


def call(function: Callable[..., Any], *arguments: Any, gpus: float = 0.0) -> Any:
    """Run a function once on the cluster, in a process that ends with it, and return what it returns.

    Raises:
        UserError: the function's own.
    """
    remote = ray.remote(num_cpus=SMALL_CPUS, num_gpus=gpus, max_calls=1)(function)
    try:
        return ray.get(remote.remote(*arguments))
    except ray.exceptions.RayTaskError as error:
        raise object_storage.refusal_in(error.cause) or error from None


def map_files(function: Callable[[str], Any], paths: Sequence[str]) -> list[Any]:
    """Apply a function to each path on the cluster and return the results in order."""
    remote = ray.remote(num_cpus=SMALL_CPUS)(function)
    return ray.get([remote.remote(path) for path in paths])


def side_by_side(
    function: Callable[[Any], Any], arguments: Sequence[Any], cpus: float, gpus: float = 0.0
) -> Iterator[tuple[int, Any]]:
    """Run a function on each argument, as many at once as the cluster holds.

    Yields:
        An argument's place and the function's result, or the exception that ended it, in the order they end.
    """
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus)(function)
    places = {remote.remote(one): place for place, one in enumerate(arguments)}
    while places:
        (ended,), _ = ray.wait(list(places), num_returns=1)
        try:
            result = ray.get(ended)
        except Exception as error:
            result = object_storage.refusal_in(error) or error
        yield places.pop(ended), result


_exported: dict[str, ray_metrics.Metric] = {}  # in each process, made at its first sample


def export(samples: Iterable[metrics.Sample]) -> None:
    """Hand samples to Ray, whose agent on each node exports them for Prometheus."""
    for sample in samples:
        metric = _exported.get(sample.name)
        if metric is None:
            metric = _exported[sample.name] = _make(sample.name, metrics.METRICS[sample.name])
        if isinstance(metric, ray_metrics.Counter):
            if sample.value > 0:  # Ray's counters refuse zero
                metric.inc(sample.value, dict(sample.labels))
        elif isinstance(metric, ray_metrics.Gauge):
            metric.set(sample.value, dict(sample.labels))
        elif isinstance(metric, ray_metrics.Histogram):
            metric.observe(sample.value, dict(sample.labels))


def _make(name: str, metric: metrics.Metric) -> ray_metrics.Metric:
    if metric.kind == "histogram":
        return ray_metrics.Histogram(name, metric.meaning, boundaries=BATCH_SECONDS, tag_keys=metric.labels)
    kinds = {"counter": ray_metrics.Counter, "gauge": ray_metrics.Gauge}
    return kinds[metric.kind](name, metric.meaning, tag_keys=metric.labels)
