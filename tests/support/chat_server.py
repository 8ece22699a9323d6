"""A server on loopback that speaks the chat protocol, judges by how red an image is, and misbehaves when told to."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

Reply = tuple[int, dict[str, str], bytes]
Misbehave = Callable[[int, dict[str, Any]], Reply | None]  # of a request's number and body; None: answer it


@dataclass
class ChatServer:
    """What a server was asked, and how it answers."""

    models: list[str] = field(default_factory=lambda: ["tiny/Red-VL"])
    misbehave: Misbehave = lambda _number, _body: None
    answer: Callable[[dict[str, Any]], str] = lambda body: verdict(body)
    asked: list[str] = field(default_factory=list)  # hashes of the bodies
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    address: str = ""

    def reply(self, content: bytes, headers: dict[str, str]) -> Reply:
        """Answer one question."""
        body = json.loads(content)
        with self.lock:
            number = len(self.asked)
            self.asked.append(hashlib.sha256(content).hexdigest())
            self.headers.append(headers)
            self.bodies.append(body)
        return self.misbehave(number, body) or completion(self.answer(body))


def completion(text: str | None, **choice: Any) -> Reply:
    """Make a reply of the chat protocol that cost 100 tokens and 7."""
    message = {"role": "assistant", "content": text}
    used = {"prompt_tokens": 100, "completion_tokens": 7}
    reply = {"choices": [{"message": message, "finish_reason": "stop"} | choice], "usage": used}
    return 200, {}, json.dumps(reply).encode()


def images_of(body: dict[str, Any]) -> list[Image.Image]:
    """Decode the images of a question."""
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))).convert("RGB") for url in urls]


def redness(image: Image.Image) -> float:
    """Measure the mean of red."""
    return float(np.asarray(image)[..., 0].mean())


def verdict(body: dict[str, Any]) -> str:
    """Prefer the redder image, or score one by its red, 0 to 10."""
    red = [redness(image) for image in images_of(body)]
    if len(red) == 1:
        return f'I see red. {{"score": {red[0] / 25.5}}}'
    return '{"winner": "tie"}' if red[0] == red[1] else f'{{"winner": {1 if red[0] > red[1] else 2}}}'


@contextlib.contextmanager
def serving() -> Iterator[ChatServer]:
    """Run a server in threads of this process."""
    state = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            del format, args

        def _send(self, reply: Reply) -> None:
            status, headers, content = reply
            with contextlib.suppress(OSError):  # who asked may have given up
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def do_GET(self) -> None:
            listed = {"data": [{"id": name} for name in state.models]}
            self._send((200, {}, json.dumps(listed).encode()) if self.path == "/v1/models" else (404, {}, b""))

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            found = self.path == "/v1/chat/completions"
            self._send(state.reply(content, dict(self.headers)) if found else (404, {}, b"no such path"))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    state.address = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
