"""A cluster of our own: one per machine and command, its token for its owner alone, nothing left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.base import files
from infra.base.errors import UserError
from infra.base.files import ROOT
from infra.local import cluster
from infra.local.cluster import ClusterConfig, Ports

UP, DOWN = ClusterConfig("up"), ClusterConfig("down")


def sleeper(**flags: Any) -> psutil.Process:
    """Start a process that does nothing, the head of a group of its own like a head node."""
    command = [sys.executable, "-c", "print('ready', flush=True); import time; time.sleep(600)"]
    process = psutil.Popen(command, start_new_session=True, stdout=subprocess.PIPE, **flags)
    process.stdout.readline()
    return process


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[psutil.Process]]:
    """Let `up` start sleepers, in a repository of this test's own; yields those that were started."""
    found: list[psutil.Process] = []

    def start(ports: Ports, log: Path, token: Path) -> psutil.Process:
        assert (ports.gcs, ports.dashboard) == (6379, 8265)  # where bare commands look
        assert ports.others["dashboard-agent-listen-port"] not in (0, 52365)  # one port that another Ray has is enough
        assert (log.parent, token.parent) == (tmp_path / "runs", tmp_path / "runs")
        found.append(sleeper())
        return found[-1]

    monkeypatch.setattr(files, "ROOT", tmp_path)
    monkeypatch.setattr(cluster, "start", start)
    monkeypatch.setattr(cluster, "RAY_FOLDER", tmp_path)
    yield found
    for process in found:
        cluster.stop(process)


def test_the_token_is_for_its_owner_alone_and_not_in_the_environment(tmp_path: Path) -> None:
    token = tmp_path / "new" / "ray.token"
    told = cluster.environment(Ports(gcs=1, dashboard=2), token)
    secret = token.read_text()
    assert len(secret) == 64
    assert token.stat().st_mode & 0o777 == 0o600
    assert not [name for name, value in told.items() if secret in value]
    assert told["RAY_AUTH_TOKEN_PATH"] == str(token)
    token.chmod(0o644)
    cluster.environment(Ports(), token)
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() == secret


def test_drivers_and_submitters_are_each_told_their_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:1")  # another cluster's settings do not leak into ours
    monkeypatch.setenv("RAY_JOB_HEADERS", "{}")
    told = cluster.environment(Ports(gcs=1, dashboard=2), tmp_path / "token")
    assert told["RAY_ADDRESS"] == "127.0.0.1:1"
    assert told["RAY_API_SERVER_ADDRESS"] == "http://127.0.0.1:2"
    assert "RAY_JOB_HEADERS" not in told


def test_up_twice_is_one_cluster_and_down_ends_it(
    started: list[psutil.Process], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.main(UP)
    cluster.main(UP)
    assert len(started) == 1
    note = tmp_path / "ray_current_cluster"  # Ray's own, which a killed node leaves behind
    note.write_text("127.0.0.1:6379\n")
    assert capsys.readouterr().out.count("Ray runs at port 8265") == 2
    cluster.main(DOWN)
    assert not started[0].is_running()
    assert not (tmp_path / "runs" / cluster.PID_FILE).exists()
    assert not note.exists()
    cluster.main(DOWN)
    assert capsys.readouterr().out == "the cluster has ended\nno cluster of `make cluster` runs\n"


def test_a_dead_cluster_is_replaced(started: list[psutil.Process]) -> None:
    cluster.main(UP)
    cluster.stop(started[0])
    cluster.main(UP)
    assert len(started) == 2
    assert started[1].is_running()


def test_down_leaves_a_stranger_with_the_same_number_alone(started: list[psutil.Process], tmp_path: Path) -> None:
    stranger = sleeper()
    started.append(stranger)  # ended with the others
    told = cluster.identity(stranger)
    told["after_boot"] -= 3600
    files.write_json(str(tmp_path / "runs" / cluster.PID_FILE), told)
    cluster.main(DOWN)
    assert stranger.is_running()
    assert not (tmp_path / "runs" / cluster.PID_FILE).exists()


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of this machine is taken"):
            cluster.start(Ports(gcs=port), tmp_path / "log", tmp_path / "token")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_start_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: list[psutil.Process] = []
    popen = psutil.Popen

    def node(command: list[str], **flags: Any) -> psutil.Process:
        assert command[:3] == ["ray", "start", "--head"]
        # A server told an address would join that cluster instead of being one.
        assert not {"RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"} & set(flags["env"])
        nodes.append(popen([sys.executable, "-c", "import time; time.sleep(600)"], **flags))
        return nodes[-1]

    def interrupt(process: psutil.Process, clients: dict[str, str], *_: object) -> bool:
        assert process.is_running()
        assert clients["RAY_AUTH_MODE"] == "token"
        raise KeyboardInterrupt

    monkeypatch.setattr(psutil, "Popen", node)
    monkeypatch.setattr(cluster, "_wait_until_up", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cluster.start(cluster.free_ports(), tmp_path / "log", tmp_path / "token")
    assert len(nodes) == 1
    assert not nodes[0].is_running()


def test_a_cluster_that_does_not_come_up_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen = psutil.Popen
    dying = [sys.executable, "-c", "print('first'); print('no memory left')"]
    monkeypatch.setattr(psutil, "Popen", lambda command, **flags: popen(dying, **flags) if command else None)
    monkeypatch.setattr(cluster, "_wait_until_up", lambda process, *_: bool(process.wait()))
    with pytest.raises(UserError, match="log ends: no memory left"):
        cluster.start(cluster.free_ports(), tmp_path / "log", tmp_path / "token")


def test_a_driver_outside_a_job_joins_this_cluster(ray_environment: dict[str, str], tmp_path: Path) -> None:
    code = "import ray; from pipelines.engine.ray_cluster import connect; connect(); "
    code += "print(ray.get_runtime_context().gcs_address)"
    surroundings = ray_environment | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=True
    )
    # Ray tells the machine's own address for loopback; the port says which cluster it is.
    assert done.stdout.split()[-1].rsplit(":", 1)[1] == ray_environment["RAY_ADDRESS"].rsplit(":", 1)[1]
    token = Path(ray_environment["RAY_AUTH_TOKEN_PATH"])
    assert not token.is_relative_to(ROOT)  # the user's own token stays as it is
    assert token.read_text() not in token.with_name("cluster.log").read_text() + done.stdout + done.stderr


@pytest.mark.chaos
@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"pid": null}', b"{}", b"\0" * 20])
def test_a_torn_note_of_the_local_cluster_names_none(tmp_path: Path, torn: bytes) -> None:
    note = tmp_path / "cluster.json"
    note.write_bytes(torn)
    assert cluster.recorded(note) is None


def test_make_removes_an_environment_that_it_could_not_finish(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    # What Debian's python3 does without python3-venv: leave an interpreter, and fail.
    python.write_text("#!/bin/sh\nmkdir -p .venv/bin && touch .venv/bin/python && chmod +x .venv/bin/python\nexit 1\n")
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "demo", f"PYTHON={python}"],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "install python3-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize("token", ["", "x" * 64])
def test_env_sh_names_a_token_only_where_there_is_one(token: str, tmp_path: Path) -> None:
    """Without make cluster a path to no token would end every command in Ray's AuthenticationError."""
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra" / "env.sh").write_text((ROOT / "infra" / "env.sh").read_text())
    if token:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "ray.token").write_text(token)
    told = subprocess.run(
        ["bash", "-c", ". infra/env.sh; echo $RAY_AUTH_MODE $RAY_AUTH_TOKEN_PATH"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/gone"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == (["token", f"{tmp_path}/runs/ray.token"] if token else [])
    assert ("run make cluster and source this again" in told.stderr) == (not token)
