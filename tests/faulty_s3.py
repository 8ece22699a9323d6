"""A proxy on loopback before an S3 server, which refuses or cuts short what a test names."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Fault = Literal["refuse", "cut"] | None
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behind: str
    fault: Callable[[str, str], Fault]

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = type(self).fault(self.command, self.path)
        if fault == "refuse":
            self._answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN, len(SLOW_DOWN))
            return
        server = http.client.HTTPConnection(urlsplit(self.behind).netloc)
        server.request(self.command, self.path, body, dict(self.headers))
        answer = server.getresponse()
        content = answer.read()
        headers = {k: v for k, v in answer.getheaders() if k not in ("Content-Length", "Connection")}
        size = int(answer.getheader("Content-Length") or len(content))  # of a HEAD's body, which is not sent
        self._answer(answer.status, headers, content[: size // 2] if fault == "cut" else content, size)
        self.close_connection = fault == "cut"
        server.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes, size: int) -> None:
        self.send_response(status)
        for name, value in (*headers.items(), ("Content-Length", str(size))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def log_message(self, *_: object) -> None:
        """Keep the test's output free of requests."""


@contextlib.contextmanager
def faulty(behind: str, fault: Callable[[str, str], Fault]) -> Iterator[str]:
    """Serve an S3 server's answers but where fault, given method and path, says otherwise; yields the URL."""
    handler = type("Handler", (_Handler,), {"behind": behind, "fault": staticmethod(fault)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()
