"""Start and end a Ray cluster on this machine, for the demo and the tests; a token protects it.

Only the dashboard listens on loopback alone. Ray's other ports listen on every address, because on Linux `ray start`
replaces a loopback address of the node by the machine's own. So the token is what protects the cluster.

`python infra/cluster.py up` starts a cluster that stays, and `. infra/env.sh` gives a shell its token.
"""

from __future__ import annotations

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
from infra.base.own_cluster import PID_FILE, TOKEN_FILE, identity, recorded

RAY_FOLDER = "/tmp/ray"  # noqa: S108  (Ray's own default)
CURRENT = "ray_current_cluster"  # file in that folder with the address that bare commands use
STORE_BYTES = 1 << 30  # size of the object store
DASHBOARD_PORT = 8265  # the default of `ray job submit`


@dataclass(frozen=True)
class Ports:
    """The ports of one head node; 0 lets Ray choose."""

    gcs: int = 6379
    dashboard: int = DASHBOARD_PORT
    others: dict[str, int] = field(default_factory=dict)  # flag name: port


def environment(ports: Ports, token: Path) -> dict[str, str]:
    """Return the environment of a cluster's clients; it makes the token on first use, readable by its owner only.

    Each worker has one thread: on contended cores two threads make a step of 0.05 s take seconds.
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
        # After 1 s Ray ends idle workers beyond the number of cores; starting one again takes most of a second of CPU.
        "RAY_idle_worker_killing_time_threshold_ms": "60000",
        "RAY_JOB_STOP_WAIT_TIME_S": "120",  # a stopped trainer ends its step and writes a checkpoint; by default 3
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1"),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }


def free_ports() -> Ports:
    """Choose free ports, so that a second cluster can run beside a user's own."""
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
    """Start a head node and wait until it answers.

    Args:
        log: file for the node's output.
        token: file with the secret of the cluster's clients.
        folder: folder for Ray's sessions; by default /tmp/ray, where bare commands look for the latest cluster.

    Returns:
        Its process, which stop ends with all its children.

    Raises:
        UserError: if a port is taken, or the node does not come up, with the last line of the log.
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
        if _wait_until_up(process, clients, Path(folder or RAY_FOLDER) / CURRENT, ports):
            return process
    except BaseException:  # on Ctrl-C too, as no other code knows this process
        stop(process)
        raise
    stop(process)
    lines = log.read_text(errors="replace").strip().splitlines()
    raise UserError(f"no Ray cluster came up; {log} ends: {lines[-1] if lines else 'empty'}")


def _wait_until_up(process: psutil.Popen, clients: dict[str, str], noted: Path, ports: Ports) -> bool:
    """Wait for the job server, and for the file with its address; an older file may still be there.

    The server is asked once its port answers: `ray job list` takes seconds of CPU to start.
    """
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        is_noted = noted.exists() and noted.read_text(errors="replace").strip().endswith(f":{ports.gcs}")
        if is_noted and _answers(ports.dashboard):
            asked = subprocess.run(["ray", "job", "list"], env=clients, capture_output=True, check=False)
            if asked.returncode == 0:
                return True
        time.sleep(0.1)
    return False


def _answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def stop(process: psutil.Process) -> None:
    """End a head node and all its children, which are one process group."""
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
    """Run a cluster for the time of a block, and yield the environment of its clients.

    Its token lies beside the log. It has a folder of its own, because in a shared one jobs join the cluster of this
    machine that was started last. The folder with Ray's logs stays where the block raises.
    """
    token = log.parent / TOKEN_FILE
    ports = free_ports()
    folder = tempfile.mkdtemp(prefix="dpo-", dir="/tmp")  # short, as socket paths have at most 107 bytes
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
    """Start the cluster (up) or stop it (down)."""


def main(config: ClusterConfig) -> None:
    """Start (up) or end (down) the cluster that bare `ray job submit` commands find on this machine."""
    runs = files.ROOT / "runs"
    process = recorded(runs / PID_FILE)
    if config.action == "down":
        if process is not None:
            stop(process)
            Path(RAY_FOLDER, CURRENT).unlink(missing_ok=True)  # or bare commands wait minutes for a dead address
        files.remove(str(runs / PID_FILE))
        print("the cluster has ended" if process is not None else "no cluster of `make cluster` runs", flush=True)
        return
    if process is None:
        # Jobs come through the agent's server. Ray starts without it where another Ray of this machine has its port.
        process = start(Ports(others=free_ports().others), runs / "cluster.log", runs / TOKEN_FILE)
        files.write_json(str(runs / PID_FILE), identity(process))
    print(f"Ray runs at port {DASHBOARD_PORT}; in your shell: . infra/env.sh; to end it: make cluster-down", flush=True)
