"""A proxy on loopback before an S3 server, which refuses, cuts short, resets or leaves hanging what a test names."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Fault = str | None  # "cut", "reset", "reset when done", "stall", "stall half-way", or the code of an error of S3's
STATUS = {"SlowDown": 503, "ExpiredToken": 400, "InvalidToken": 400}  # of other codes 403


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behind: str
    fault: Callable[[str, str], Fault]
    valid: Callable[[str], bool]

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = self.headers.get("Authorization", "").partition("Credential=")[2].split("/")[0]
        fault = type(self).fault(self.command, self.path) if type(self).valid(key) else "ExpiredToken"
        if fault == "stall":
            self._hang()
            return
        if fault == "reset":
            self._reset()
            return
        if fault not in (None, "cut", "stall half-way", "reset when done"):
            told = f"<Error><Code>{fault}</Code><Message>The server's own words.</Message></Error>".encode()
            told = b"" if self.command == "HEAD" else told
            self._answer(STATUS.get(fault, 403), {"Content-Type": "application/xml"}, told, len(told))
            return
        server = http.client.HTTPConnection(urlsplit(self.behind).netloc)
        server.request(self.command, self.path, body, dict(self.headers))
        answer = server.getresponse()
        content = answer.read()
        if fault == "reset when done":
            self._reset()
            server.close()
            return
        headers = {k: v for k, v in answer.getheaders() if k not in ("Content-Length", "Connection")}
        size = int(answer.getheader("Content-Length") or len(content))  # of a HEAD's body, which is not sent
        self._answer(answer.status, headers, content[: size // 2] if fault else content, size)
        self.close_connection = fault == "cut"
        server.close()
        if fault == "stall half-way":
            self._hang()

    def _reset(self) -> None:
        linger = struct.pack("ii", 1, 0)  # of no seconds: the kernel sends RST where it would send FIN
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    def _hang(self) -> None:
        """Send nothing until the client has given up."""
        self.close_connection = True
        self.wfile.flush()
        self.connection.recv(1)

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
def faulty(
    behind: str, fault: Callable[[str, str], Fault] = lambda *_: None, valid: Callable[[str], bool] = lambda _: True
) -> Iterator[str]:
    """Serve an S3 server's answers but where fault, given method and path, says otherwise; yields the URL.

    A request signed with an access key that is not valid is told that its credentials have expired.
    """
    members = {"behind": behind, "fault": staticmethod(fault), "valid": staticmethod(valid)}
    handler = type("Handler", (_Handler,), members)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()
