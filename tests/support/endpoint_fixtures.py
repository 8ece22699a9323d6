"""A judge's server on loopback, the settings of who asks it, and a clock that does not wait: fixtures to import."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from labelers.scoring import endpoint, endpoint_client
from labelers.scoring.endpoint_client import Pace
from labelers.scoring.endpoint_config import EndpointConfig
from support import chat_server
from support.chat_server import ChatServer


@pytest.fixture(name="server")
def judge_server() -> Iterator[ChatServer]:
    """Hold a server that answers by how red an image is."""
    with chat_server.serving() as started:
        yield started


@pytest.fixture(name="slept", autouse=True)
def no_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Take the place of the clock: a pause is noted, and over at once."""
    pauses: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(endpoint, "Pace", lambda per_minute: Pace(per_minute, lambda: now[0], sleep))
    monkeypatch.delenv(endpoint_client.KEY, raising=False)
    return pauses


@pytest.fixture(name="config")
def endpoint_config(tmp_path: Path) -> EndpointConfig:
    """Return settings that ask one question at a time."""
    return EndpointConfig(answers=str(tmp_path / "answers"), requests_at_once=1)
