"""Which engine runs a job, and which cluster: only what somebody named or asked for, and the line that says why."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra.base import engines, own_cluster
from infra.base.errors import UserError
from pipelines.engine import choose, clusters, in_process, ray_cluster


@pytest.fixture
def free_port() -> Iterator[int]:
    """Yield a port that nobody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_one_copy_without_a_cluster_runs_in_this_process() -> None:
    for copies in (0, 1):
        assert choose.choose("--encoders", copies) == ("local", "no cluster is named and one copy is enough")


def test_a_named_cluster_or_several_copies_take_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose.choose("--workers", 2) == ("ray", "--workers 2 asks for it")
    assert choose.choose("--encoders", 1, "--accelerator-type L4") == ("ray", "--accelerator-type L4 asks for it")
    monkeypatch.setattr(own_cluster, "is_running", lambda: True)
    assert choose.choose("--workers", 1) == ("ray", "`make cluster` names 127.0.0.1:6379")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    assert choose.choose("--workers", 1) == ("ray", "RAY_ADDRESS names 10.0.0.7:6379")


def test_several_gpus_take_a_copy_each_unless_one_copy_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_process, "gpus_here", lambda: 4)
    assert choose.choose("--samplers", 0) == ("ray", "each of this machine's 4 GPUs takes a copy")
    assert choose.choose("--samplers", 1)[0] == "local"
    assert in_process.device_count() == 1


def test_the_flag_decides_and_contradictions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    with engines.asking("local"):
        assert choose.choose("--workers", 1) == ("local", "--engine local asks for it")
        with pytest.raises(UserError, match=r"^--engine local: one process cannot do what --workers 2 asks for; leave"):
            choose.choose("--workers", 2)
    monkeypatch.delenv("RAY_ADDRESS")
    with engines.asking("ray"):
        assert choose.choose("--workers", 1) == ("ray", "--engine ray asks for it")
    assert choose.choose("--workers", 1)[0] == "local"


def test_a_part_of_a_ray_job_stays_on_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(choose.sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setattr(ray_cluster._Own, "started", False)  # whatever other tests of this process began
    assert choose.choose("--workers", 1) == ("ray", "this is a part of a Ray job")


def test_a_cluster_that_one_job_of_this_process_needed_does_not_hold_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(choose.sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setattr(ray_cluster._Own, "started", True)
    assert choose.choose("--samplers", 1)[0] == "local"
    assert choose.choose("--workers", 2)[0] == "ray"


def test_the_choice_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    choose._say_once.cache_clear()
    choose.connect("--encoders", 1)
    choose.connect("--encoders", 0)
    assert capsys.readouterr().out == "engine: this process, as no cluster is named and one copy is enough\n"
    assert choose.current() is in_process


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("auto", "RAY_ADDRESS auto: names no cluster; give HOST:PORT"),
        ("http://127.0.0.1:8265", "RAY_ADDRESS http://127.0.0.1:8265: is a job server's; submit this command with"),
    ],
)
def test_an_address_that_names_no_cluster_is_refused(address: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"^{told}"):
        choose.choose("--workers", 1)


def test_the_server_of_make_cluster_means_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    monkeypatch.setattr(own_cluster, "is_running", lambda: True)
    assert clusters.named() == clusters.Cluster("127.0.0.1:6379", "`make cluster`")
    monkeypatch.setenv("RAY_ADDRESS", "local")  # Ray's word for a cluster of one's own
    monkeypatch.setattr(own_cluster, "is_running", lambda: False)
    assert clusters.named() is None


def test_the_token_of_make_cluster_is_shown_to_it_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.setenv(name, "")  # put back as it was when the test ends
        monkeypatch.delenv(name)
    monkeypatch.setattr(own_cluster, "is_running", lambda: True)
    monkeypatch.setattr(own_cluster, "runs", lambda: tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    clusters.take_token()
    assert "RAY_AUTH_MODE" not in os.environ
    monkeypatch.delenv("RAY_ADDRESS")
    clusters.take_token()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == f"{tmp_path}/ray.token"


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "127.0.0.1", "127.0.0.1:777777"])
def test_a_dead_address_is_refused_before_ray_waits_for_it(address: str, free_port: int) -> None:
    named = address.format(port=free_port)
    with pytest.raises(UserError, match=f"^RAY_ADDRESS {named}: no Ray cluster answers there; start it, or unset"):
        clusters.refuse_dead(clusters.Cluster(named, "RAY_ADDRESS"))


def test_a_port_that_answers_passes() -> None:
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        head.listen()
        clusters.refuse_dead(clusters.Cluster(f"127.0.0.1:{head.getsockname()[1]}", "RAY_ADDRESS"))
