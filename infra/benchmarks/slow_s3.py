"""A folder served as S3 buckets on loopback: each answer is late by some milliseconds, and all are counted."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path
    delay: float  # seconds
    counted: Any  # requests and bytes

    def do_HEAD(self) -> None:
        self._serve(with_body=False)

    def do_GET(self) -> None:
        self._serve(with_body=True)

    def _serve(self, with_body: bool) -> None:
        time.sleep(self.delay)
        url = urlsplit(self.path)
        path = self.folder / unquote(url.path).strip("/")
        if "list-type" in parse_qs(url.query):
            self._answer(200, self._listing(path.name, parse_qs(url.query).get("prefix", [""])[0]), with_body)
        elif not path.is_file():
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>", with_body)
        else:
            self._answer_object(path, with_body)

    def _answer_object(self, path: Path, with_body: bool) -> None:
        size = path.stat().st_size
        first, _, last = self.headers.get("Range", f"bytes=0-{size - 1}").removeprefix("bytes=").partition("-")
        end = min(int(last or size - 1), size - 1)
        with path.open("rb") as file:
            file.seek(int(first))
            content = file.read(end - int(first) + 1) if with_body else b""
        partial = "Range" in self.headers
        place = {"Content-Range": f"bytes {first}-{end}/{size}"} if partial else {}
        self._answer(206 if partial else 200, content, with_body, size if not with_body else None, place)

    def _listing(self, bucket: str, prefix: str) -> bytes:
        root = self.folder / bucket
        names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        rows = [
            f"<Contents><Key>{escape(name)}</Key><Size>{(root / name).stat().st_size}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for name in names
            if name.startswith(prefix)
        ]
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(rows)}</ListBucketResult>".encode()

    def _answer(
        self, status: int, content: bytes, with_body: bool, size: int | None = None, extra: dict[str, str] | None = None
    ) -> None:
        with self.counted.get_lock():
            self.counted[0] += 1
            self.counted[1] += len(content) if with_body else 0
        self.send_response(status)
        headers = {"Content-Length": str(len(content) if size is None else size), **(extra or {})}
        for name, value in (headers | {"Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing for each request."""


@dataclass(frozen=True)
class Server:
    """A server that runs in a process of its own."""

    url: str
    counted: Any

    def totals(self) -> tuple[int, int]:
        """Return the requests and the bytes of answers so far."""
        with self.counted.get_lock():
            return int(self.counted[0]), int(self.counted[1])


def _run(folder: str, delay: float, counted: Any, port: Connection) -> None:
    handler = type("Handler", (_Handler,), {"folder": Path(folder), "delay": delay, "counted": counted})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    port.send(server.server_address[1])
    server.serve_forever()


@contextlib.contextmanager
def serving(folder: Path, delay: float) -> Iterator[Server]:
    """Serve the folders below a folder as buckets, read only; each answer is late by delay seconds."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    counted = context.Array("q", 2)
    process = context.Process(target=_run, args=(str(folder), delay, counted, there), daemon=True)
    process.start()
    yield Server(f"http://127.0.0.1:{here.recv()}", counted)
    process.terminate()
    process.join()
