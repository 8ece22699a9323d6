"""A Ray cluster on this machine, for the demo and the tests: loopback only, token-protected, ended by process id.

`. infra/env.sh` sets the same environment in a shell, and `python infra/cluster.py up` starts a cluster that stays.
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

from infra.errors import UserError
from infra.files import ROOT

PID_FILE = ROOT / "runs" / "cluster.pid"
TOKEN_FILE = ROOT / "runs" / "ray.token"
DASHBOARD_PORT = 8265  # where `ray job submit` looks when told nothing


@dataclass(frozen=True)
class Ports:
    """The ports of one head node; 0 lets Ray choose."""

    gcs: int = 6379
    dashboard: int = DASHBOARD_PORT
    others: dict[str, int] = field(default_factory=dict)  # flag name: port


def environment(ports: Ports = Ports(), token: Path = TOKEN_FILE) -> dict[str, str]:
    """Return the environment that server and clients share; makes the token on first use.

    Threads: two on contended cores make a step of 0.05 s take seconds, so each worker has one.
    """
    if not token.exists():
        token.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return inherited | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ADDRESS": f"http://127.0.0.1:{ports.dashboard}",  # for ray job submit
        "DIFFUSION_DPO_GCS": f"127.0.0.1:{ports.gcs}",  # for a driver outside a job
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S": "20",
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


def start(ports: Ports, log: Path, folder: str | None = None, token: Path = TOKEN_FILE) -> subprocess.Popen[bytes]:
    """Start a head node and wait until it answers; the process and its children end together.

    Args:
        log: file for the node's own output.
        folder: where Ray keeps its sessions; by default /tmp/ray, whose latest cluster is what bare commands find.

    Raises:
        UserError: if it does not come up, with the log's last line.
    """
    command = [
        "ray",
        "start",
        "--head",
        "--block",
        "--disable-usage-stats",
        "--node-ip-address=127.0.0.1",
        "--dashboard-host=127.0.0.1",
        "--include-dashboard=true",
        f"--port={ports.gcs}",
        f"--dashboard-port={ports.dashboard}",
        f"--object-store-memory={1 << 30}",
        *[f"--{name}={port}" for name, port in ports.others.items()],
        *([f"--temp-dir={folder}"] if folder else []),
    ]
    log.parent.mkdir(parents=True, exist_ok=True)
    surroundings = environment(ports, token)
    server = {name: value for name, value in surroundings.items() if name != "RAY_ADDRESS"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=server, stdout=out, stderr=out, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        asked = subprocess.run(["ray", "job", "list"], env=surroundings, capture_output=True, check=False)
        if asked.returncode == 0:
            return process
    stop(process)
    lines = log.read_text(errors="replace").strip().splitlines()
    raise UserError(f"no Ray cluster came up; {log} ends: {lines[-1] if lines else 'empty'}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a head node and all its children, by process group."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, kind)
            process.wait(timeout=5)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def running(log: Path) -> Iterator[dict[str, str]]:
    """Hold a cluster of one's own and yield the environment its clients need; Ray's logs stay where a client failed.

    Its folder is its own too: in a shared one a job joins whichever cluster on this machine was started last.
    """
    ports, folder = free_ports(), tempfile.mkdtemp(prefix="dpo-", dir="/tmp")  # short: socket paths end at 107 bytes
    process = start(ports, log, folder)
    try:
        yield environment(ports)
    except BaseException:
        stop(process)
        print(f"Ray's logs: {folder}", file=sys.stderr, flush=True)
        raise
    stop(process)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Start (`up`) or end (`down`) the cluster that bare `ray job submit` commands find."""
    if sys.argv[1:] == ["up"]:
        process = start(Ports(), ROOT / "runs" / "cluster.log")
        PID_FILE.write_text(str(process.pid))
        print(f"Ray runs at port {DASHBOARD_PORT}; in your shell: . infra/env.sh; to end it: make cluster-down")
    elif sys.argv[1:] == ["down"] and PID_FILE.exists():
        os.killpg(int(PID_FILE.read_text()), signal.SIGTERM)
        PID_FILE.unlink()
    else:
        raise SystemExit("usage: python infra/cluster.py up|down (down: no cluster was started by this command)")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
