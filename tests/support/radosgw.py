"""Ceph's S3 server on loopback: a monitor, one OSD that keeps objects in memory, and radosgw, ended by process id."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

INSTALL = "apt-get install ceph-mon ceph-osd radosgw"
PROGRAMS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
STRANGER = "stranger"  # a second user, by name, key and secret
CAPABILITIES = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
}


@dataclass(frozen=True)
class Server:
    """An S3 server and the keys of its first user."""

    url: str
    key: str
    secret: str


def is_installed() -> bool:
    """Say whether all of Ceph's programs that are started here are on this machine."""
    return all(shutil.which(name) for name in PROGRAMS)


def settings(folder: Path, monitor: int) -> str:
    """Return a ceph.conf: one copy of everything, all files in the folder, loopback alone, no second to gather votes.

    Args:
        monitor: port of the one monitor.
    """
    return f"""[global]
fsid = {uuid.uuid4()}
mon host = [v2:127.0.0.1:{monitor}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = {folder}/keyring
run dir = {folder}
crash dir = {folder}
admin socket =
log file = {folder}/$name.log
paxos propose interval = 0.05
osd objectstore = memstore
memstore device bytes = {1 << 30}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
"""


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Run the three processes with their data below a folder, until the block ends.

    Raises:
        AssertionError: if one of them ends or S3 does not answer within two minutes; the folder has their logs.
    """
    monitor, port = _free_ports()
    path, user = folder / "ceph.conf", Server(f"http://127.0.0.1:{port}", "PLANTEDKEY", "PLANTED-SECRET-51c0")
    path.write_text(settings(folder, monitor))
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir()
    with contextlib.ExitStack() as started:

        def run(program: str, *arguments: str) -> None:
            command = [program, "--conf", str(path), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"

        def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
            log = started.enter_context((folder / f"{program}.out").open("wb"))
            command = [program, "--conf", str(path), "-f", *arguments]
            process = subprocess.Popen(command, stdout=log, stderr=log)
            started.callback(_end, process)
            return process

        _make_keys(folder / "keyring", run)
        run("monmaptool", "--create", "--addv", "a", f"[v2:127.0.0.1:{monitor}]", str(folder / "monmap"))
        run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(folder / "monmap"), "--keyring", str(folder / "keyring"))
        start("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        run("ceph", "osd", "new", osd)
        run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd)
        start("ceph-osd", "-i", "0")
        for name, key, secret in (("trainer", user.key, user.secret), (STRANGER, STRANGER, STRANGER)):
            keys = ("--access-key", key, "--secret-key", secret)
            run("radosgw-admin", "user", "create", "--uid", name, "--display-name", name, *keys)
        gateway = start("radosgw", "-n", "client.admin", "--rgw-frontends", f"beast endpoint=127.0.0.1:{port}")
        _wait_until_up(gateway, port)
        yield user


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _make_keys(path: Path, run: Callable[..., None]) -> None:
    for name, rights in CAPABILITIES.items():
        granted = [part for what, right in rights.items() for part in ("--cap", what, right)]
        create = () if path.exists() else ("--create-keyring",)
        run("ceph-authtool", str(path), *create, "--gen-key", "-n", name, *granted)


def _wait_until_up(gateway: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        assert gateway.poll() is None, "radosgw ended"
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            return
        except OSError:
            assert time.monotonic() < deadline, "radosgw does not answer"
            time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
