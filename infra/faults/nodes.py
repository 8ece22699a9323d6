"""A second node for a cluster on this machine, and its processes, to be killed by infra/chaos.py and the tests."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from infra.base import files
from infra.base.errors import UserError
from infra.faults import netsplit
from infra.local import cluster

PATIENCE = 300.0  # longest wait in seconds; the loss of a node alone may take a minute to show


@contextlib.contextmanager
def second_node(
    surroundings: dict[str, str], log: Path, apart: bool = False
) -> Iterator[tuple[psutil.Process, netsplit.Place | None]]:
    """Join a second node to a cluster, and end it with the block.

    Args:
        surroundings: environment of the cluster's clients.
        log: file for the node's output.
        apart: whether to give it a network of its own, which netsplit.lose can take away.

    Yields:
        Its process, and its network if it is apart.

    Raises:
        UserError: if it does not join, or if this process may not make a network.
    """
    with contextlib.ExitStack() as held:
        place = held.enter_context(netsplit.apart()) if apart else None
        host, port = surroundings["RAY_ADDRESS"].split(":")
        address = f"{place.outside if place else host}:{port}"
        ports = [f"--{name}={number}" for name, number in cluster.free_ports().others.items() if "client" not in name]
        command = ["ray", "start", f"--address={address}", "--block", "--disable-usage-stats", *ports]
        command += [f"--object-store-memory={1 << 28}", *([f"--node-ip-address={place.inside}"] if place else [])]
        # A folder of its own, as on a machine of its own. In the head's folder it would note its own address for jobs.
        folder = tempfile.mkdtemp(prefix="dpo-", dir="/tmp")  # short: socket paths end at 107 bytes
        held.callback(shutil.rmtree, folder, ignore_errors=True)
        command += [f"--temp-dir={folder}"]
        before = nodes(surroundings)
        with log.open("wb") as out:
            process = psutil.Popen(
                [*(place.command if place else ()), *command],
                cwd=files.ROOT,
                env={name: value for name, value in surroundings.items() if not name.endswith("_ADDRESS")},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        held.callback(cluster.stop, process)
        wait_until(lambda: nodes(surroundings) > before or process.poll() is not None)
        if process.poll() is not None:
            raise UserError(f"the second node ended before it joined; {log} says why")
        yield process, place


def nodes(surroundings: dict[str, str]) -> int:
    """Count the living nodes of a cluster."""
    asked = subprocess.run(
        ["ray", "list", "nodes", "--filter", "state=ALIVE", "--format", "json"],
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.count('"node_id"')


def wait_until(reached: Callable[[], bool], every: float = 0.005) -> None:
    """Wait until a condition holds.

    Args:
        every: seconds between two looks; more where a look takes much time, as one through all processes does.

    Raises:
        UserError: if it does not hold within PATIENCE seconds.
    """
    deadline = time.monotonic() + PATIENCE
    while not reached():
        if time.monotonic() > deadline:
            raise UserError(f"the awaited moment did not come within {PATIENCE:.0f} s; the logs may say why")
        time.sleep(every)


def processes(surroundings: dict[str, str], wanted: Callable[[list[str]], bool]) -> list[int]:
    """Return the processes of this cluster, and of no other, whose command line is a wanted one."""
    pids: list[int] = []
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            if (
                wanted(process.info["cmdline"] or [])
                and process.environ().get("RAY_AUTH_TOKEN_PATH") == surroundings["RAY_AUTH_TOKEN_PATH"]
            ):
                pids.append(process.pid)
    return pids


def kill_raylet(node: psutil.Process) -> None:
    """Kill the raylet of a node; all its workers end with it."""
    for child in node.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if Path(child.cmdline()[0]).name == "raylet":
                child.kill()
