"""A Ray cluster that others can reach is refused where it asks for no token, whatever this process carries."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from infra.base.errors import UserError
from pipelines.engine import clusters, ray_cluster

pytestmark = pytest.mark.chaos


@contextlib.contextmanager
def dashboard(mode: str | None) -> Iterator[str | None]:
    """Hold what tells a cluster's mode as its dashboard does, and yield its host and port; none without a mode."""
    if mode is None:
        yield None
        return

    class Told(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/api/authentication_mode"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"authentication_mode": mode}).encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Told) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("host", "own", "answer", "refused"),
    [
        ("10.0.0.7", "", None, True),
        ("10.0.0.7", "token", None, False),
        ("10.0.0.7", "token", "disabled", True),  # our token opens what needs none
        ("10.0.0.7", "token", "token", False),
        ("127.0.0.1", "", "disabled", False),
    ],
)
def test_a_cluster_open_to_others_is_refused_without_a_token(
    host: str, own: str, answer: str | None, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"{host}:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", own)
    with dashboard(answer) as url:
        init = Mock(return_value=SimpleNamespace(dashboard_url=url))
        nodes = [{"NodeManagerAddress": host, "Alive": True}]
        cluster = SimpleNamespace(is_initialized=lambda: False, init=init, nodes=lambda: nodes)
        monkeypatch.setattr(ray_cluster, "ray", cluster)
        monkeypatch.setattr(clusters, "refuse_dead", lambda _: None)
        with pytest.raises(UserError, match="asks for no token") if refused else contextlib.nullcontext():
            ray_cluster.connect()
    init.assert_called_once()
