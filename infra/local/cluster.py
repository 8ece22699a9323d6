"""A Ray cluster on this machine, for the demo and the tests: token-protected, ended by process id.

The token is its protection: only the dashboard keeps to loopback. Ray's other ports listen on every address, because
on Linux `ray start` replaces a loopback address of the node by the machine's own.

`. infra/env.sh` tells a shell the token, and `python infra/cluster.py up` starts a cluster that stays.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil
import tyro

from infra.base import files
from infra.base.errors import UserError

PID_FILE = "cluster.json"  # beside the log: which process the cluster is
TOKEN_FILE = "ray.token"  # noqa: S105  (a file name, beside the log too)
RAY_FOLDER = "/tmp/ray"  # noqa: S108  (Ray's own default)
CURRENT = "ray_current_cluster"  # in it: the address that bare commands read
STORE_BYTES = 1 << 30  # of the object store
DASHBOARD_PORT = 8265  # where `ray job submit` looks when told nothing


@dataclass(frozen=True)
class Ports:
    """The ports of one head node; 0 lets Ray choose."""

    gcs: int = 6379
    dashboard: int = DASHBOARD_PORT
    others: dict[str, int] = field(default_factory=dict)  # flag name: port


def environment(ports: Ports, token: Path) -> dict[str, str]:
    """Return the environment of a cluster's clients; makes the token on first use, readable by its owner alone.

    Threads: two on contended cores make a step of 0.05 s take seconds, so each worker has one.
    """
    if not token.exists():
        token.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    token.chmod(0o600)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return inherited | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ADDRESS": f"127.0.0.1:{ports.gcs}",  # for a driver outside a job
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{ports.dashboard}",  # for ray job submit, which reads it first
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": "20",
        # Ray ends those over the number of cores after 1 s, and the next write starts one: most of a second of CPU.
        "RAY_idle_worker_killing_time_threshold_ms": "60000",
        "RAY_JOB_STOP_WAIT_TIME_S": "120",  # a stopped trainer ends its step and writes a checkpoint; Ray gives it 3
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }


def free_ports() -> Ports:
    """Choose ports that nobody holds, so that a second cluster can stand beside a user's own."""
    names = (
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "metrics-export-port",
        "runtime-env-agent-port",
        "ray-client-server-port",
    )
    sockets = [socket.socket() for _ in range(2 + len(names))]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    numbers = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return Ports(numbers[0], numbers[1], dict(zip(names, numbers[2:], strict=True)))


def start(ports: Ports, log: Path, token: Path, folder: str | None = None) -> psutil.Process:
    """Start a head node and wait until it answers; the process and its children end together.

    Args:
        log: file for the node's own output.
        token: file with the secret that its clients must know.
        folder: where Ray keeps its sessions; by default /tmp/ray, whose latest cluster is what bare commands find.

    Raises:
        UserError: if its ports are taken, or it does not come up, with the log's last line.
    """
    for port in (ports.gcs, ports.dashboard):
        if _answers(port):
            raise UserError(f"port {port} of this machine is taken; end the Ray cluster or the program that holds it")
    command = [
        "ray",
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        "--dashboard-host=127.0.0.1",
        "--include-dashboard=true",
        f"--port={ports.gcs}",
        f"--dashboard-port={ports.dashboard}",
        f"--object-store-memory={STORE_BYTES}",
        *[f"--{name}={port}" for name, port in ports.others.items()],
        *([f"--temp-dir={folder}"] if folder else []),
    ]
    log.parent.mkdir(parents=True, exist_ok=True)
    clients = environment(ports, token)
    server = {name: value for name, value in clients.items() if not name.endswith("_ADDRESS")}
    with log.open("wb") as out:
        process = psutil.Popen(command, cwd=files.ROOT, env=server, stdout=out, stderr=out, start_new_session=True)
    try:
        if _wait_until_up(process, clients, Path(folder or RAY_FOLDER) / CURRENT, ports.gcs):
            return process
    except BaseException:  # Ctrl-C too: nobody else knows this process
        stop(process)
        raise
    stop(process)
    lines = log.read_text(errors="replace").strip().splitlines()
    raise UserError(f"no Ray cluster came up; {log} ends: {lines[-1] if lines else 'empty'}")


def _wait_until_up(process: psutil.Popen, clients: dict[str, str], noted: Path, gcs: int) -> bool:
    """Wait for the job server, and for the note of the address that bare commands read; an older one may stand."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        asked = subprocess.run(["ray", "job", "list"], env=clients, capture_output=True, check=False)
        if asked.returncode == 0 and noted.exists() and noted.read_text().strip().endswith(f":{gcs}"):
            return True
    return False


def _answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def stop(process: psutil.Process) -> None:
    """End a head node and all its children, by process group."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
            process.wait(timeout=5)
        except ProcessLookupError:
            return
        except psutil.TimeoutExpired:
            continue


@contextmanager
def running(log: Path) -> Iterator[dict[str, str]]:
    """Hold a cluster of one's own and yield the environment its clients need; Ray's logs stay where a client failed.

    Its token lies beside the log. Its folder is its own too: in a shared one a job joins whichever cluster on this
    machine was started last.
    """
    token = log.parent / TOKEN_FILE
    ports, folder = free_ports(), tempfile.mkdtemp(prefix="dpo-", dir="/tmp")  # short: socket paths end at 107 bytes
    try:
        process = start(ports, log, token, folder)
        try:
            yield environment(ports, token)
        finally:
            stop(process)
    except BaseException:
        print(f"Ray's logs: {folder}", file=sys.stderr, flush=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class ClusterConfig:
    """What to do with the cluster of this machine."""

    action: tyro.conf.Positional[Literal["up", "down"]]


def identity(process: psutil.Process) -> dict[str, float]:
    """Return what tells a process from a later one of its number: seconds from boot, as clocks are set meanwhile."""
    return {"pid": process.pid, "after_boot": process.create_time() - psutil.boot_time()}


def recorded(file: Path) -> psutil.Process | None:
    """Return the running process that a file of `up` names; None where it is gone, or another has its number now."""
    if not file.exists():
        return None
    told = files.read_json(str(file))
    try:
        process = psutil.Process(told["pid"])
        # No number comes round again within seconds.
        same = abs(identity(process)["after_boot"] - told.get("after_boot", math.inf)) < 5
        alive = same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if alive else None


def main(config: ClusterConfig) -> None:
    """Start (up) or end (down) the cluster that bare `ray job submit` commands find on this machine."""
    runs = Path(files.resolve("runs"))
    process = recorded(runs / PID_FILE)
    if config.action == "down":
        if process is not None:
            stop(process)
            Path(RAY_FOLDER, CURRENT).unlink(missing_ok=True)  # else bare commands ask a dead address for minutes
        files.remove(str(runs / PID_FILE))
        print("the cluster has ended" if process is not None else "no cluster of `make cluster` runs", flush=True)
        return
    if process is None:
        process = start(Ports(), runs / "cluster.log", runs / TOKEN_FILE)
        files.write_json(str(runs / PID_FILE), identity(process))
    print(f"Ray runs at port {DASHBOARD_PORT}; in your shell: . infra/env.sh; to end it: make cluster-down", flush=True)
