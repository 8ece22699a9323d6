"""The arena's web server: the standard library's, one page, three requests.

A request without the token gets nothing. No name from a request reaches the file system: images are known by their
number in a fixed list. Nothing that the server sends tells which model drew an image.
"""

from __future__ import annotations

import errno
import http.cookies
import ipaddress
import json
import re
import secrets
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from infra.base import json_text
from infra.base.errors import UserError
from infra.pages.page import template
from pipelines.arena_app.arena_pairs import Contents, Pair, left_model, order
from pipelines.arena_app.arena_votes import QUESTIONS, SIDES, VoteLog, check_answers, check_rater

MAX_BODY = 4096  # bytes; a vote has some 150
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
IMAGE = re.compile(r"/image/(\d{1,9})/(left|right)")


class Refused(Exception):
    """A request that is answered by a status and a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Arena:
    """What the server serves: pairs by number, and the votes on them."""

    pairs: Sequence[Pair]
    contents: Contents
    log: VoteLog
    seed: int

    def session(self, rater: str) -> list[dict[str, Any]]:
        """List all pairs in a rater's order, each with their answers or None, and whether it is flagged."""
        given = self.log.given(rater)
        shown = [(number, self.pairs[number]) for number in order(self.pairs, self.seed, rater)]
        return [
            {
                "pair": number,
                "caption": pair.caption,
                "answers": given.get(pair.image_id),
                "flagged": self.contents.is_flagged(pair),
            }
            for number, pair in shown
        ]

    def image(self, rater: str, number: int, side: str, revealed: bool) -> bytes:
        """Return the PNG that a rater sees on one side; of a flagged pair a blurred one, unless revealed."""
        pair = self.pair(number)
        left = left_model(pair, self.seed, rater)
        return self.contents.shown(pair, left if side == SIDES[0] else 1 - left, revealed)

    def vote(self, rater: str, number: int, answers: dict[str, str]) -> None:
        """Keep a rater's answers to a pair, in place of earlier ones.

        Raises:
            Refused: if there is no such pair, or the disk takes no vote.
        """
        pair = self.pair(number)
        try:
            self.log.add(rater, pair.image_id, left_model(pair, self.seed, rater), answers)
        except OSError as error:
            remedy = "start the arena again" if error.errno == errno.ESTALE else "free space on the disk and vote again"
            sentence = f"the vote was not kept ({error.strerror or error}); {remedy}"
            raise Refused(HTTPStatus.INSUFFICIENT_STORAGE, sentence) from error

    def pair(self, number: int) -> Pair:
        """Return a pair by its number.

        Raises:
            Refused: if there is no such pair.
        """
        if not 0 <= number < len(self.pairs):
            raise Refused(HTTPStatus.NOT_FOUND, "no such pair")
        return self.pairs[number]


class ArenaServer(ThreadingHTTPServer):
    """Serves an arena at an address of this machine."""

    daemon_threads = True
    request_queue_size = 128  # connections that wait to be accepted; the library has 5, and a class of raters more

    def __init__(self, arena: Arena, host: str, port: int) -> None:
        """Listen at once.

        Raises:
            UserError: if the address cannot be had.
        """
        self.arena = arena
        self.host = host
        self.token = secrets.token_urlsafe(32)
        here = Path(__file__).parent
        page = template("arena.html.jinja", here / "templates").render(questions=QUESTIONS)
        self.files = {
            "/": ("text/html; charset=utf-8", page.encode()),
            "/arena.js": ("text/javascript; charset=utf-8", (here / "static" / "arena.js").read_bytes()),
            "/favicon.ico": ("image/x-icon", b""),  # browsers ask for it; an error would stand in their console
            "/arena.css": ("text/css; charset=utf-8", (here / "static" / "arena.css").read_bytes()),
        }
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), ArenaHandler)
        except OSError as error:
            raise UserError(
                f"--host {host} --port {port}: cannot listen there ({error.strerror or error}); give another --port"
            ) from error

    @property
    def cookie(self) -> str:
        """Return the cookie's name; cookies are shared by all ports of a host."""
        return f"arena-{self.server_port}"

    @property
    def url(self) -> str:
        """Return the address to open, with the token."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self.server_port}/?token={self.token}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent where a browser closed the connection before its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def is_token(self, text: str) -> bool:
        """Compare with the token in constant time."""
        return secrets.compare_digest(text.encode("utf-8", "surrogatepass"), self.token.encode())


class ArenaHandler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    server: ArenaServer
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds after which a silent connection is closed

    def do_GET(self) -> None:
        """Send the page, its script and style, a rater's session, or an image."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Take a vote."""
        self._answer(self._post)

    def _answer(self, handle: Any) -> None:
        try:
            self._check_host()
            kind, content, headers = handle()
        except Refused as refused:
            self.send_error(refused.status, str(refused))
        except ValueError as error:  # no JSON, no address, or refused by a check of arena_votes
            self.send_error(HTTPStatus.BAD_REQUEST, str(error))
        else:
            self._send(HTTPStatus.OK, kind, content, headers)

    def _get(self) -> tuple[str, bytes, dict[str, str]]:
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        headers = {}
        if address.path == "/" and self.server.is_token(query.get("token", "")):
            headers["Set-Cookie"] = f"{self.server.cookie}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"
        else:
            self._check_cookie()
        if address.path in self.server.files:
            return *self.server.files[address.path], headers
        if address.path == "/session":
            return *_json({"pairs": self.server.arena.session(check_rater(query.get("rater")))}), headers
        image = IMAGE.fullmatch(address.path)
        if image:
            rater = check_rater(query.get("rater"))
            revealed = query.get("reveal") == "1"
            return "image/png", self.server.arena.image(rater, int(image[1]), image[2], revealed), headers
        raise Refused(HTTPStatus.NOT_FOUND, "nothing here")

    def _post(self) -> tuple[str, bytes, dict[str, str]]:
        self._check_cookie()
        if urlsplit(self.headers.get("Origin", "")).netloc != self.headers["Host"]:
            raise Refused(HTTPStatus.FORBIDDEN, "votes are taken from the arena's own page")
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a vote is JSON")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,9}", length):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "a vote has a length")
        if int(length) > MAX_BODY:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a vote has at most {MAX_BODY} bytes")
        if self.path != "/vote":
            raise Refused(HTTPStatus.NOT_FOUND, "nothing here")
        vote = json_text.parse(self.rfile.read(int(length)))
        if not isinstance(vote, dict) or type(vote.get("pair")) is not int:
            raise Refused(HTTPStatus.BAD_REQUEST, "a vote names its pair")
        self.server.arena.vote(check_rater(vote.get("rater")), vote["pair"], check_answers(vote.get("answers")))
        return *_json({"kept": True}), {}

    def _check_host(self) -> None:
        """Refuse a foreign name that a DNS server points here; only addresses, localhost and --host are valid."""
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if name not in ("localhost", self.server.host.lower()) and not _is_address(name):
            raise Refused(HTTPStatus.FORBIDDEN, "unknown host")

    def _check_cookie(self) -> None:
        try:
            cookie = http.cookies.SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        except http.cookies.CookieError:
            cookie = None
        if cookie is None or not self.server.is_token(cookie.value):
            raise Refused(HTTPStatus.FORBIDDEN, "open the address that arena.py printed, with its token")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Refuse in plain text and close the connection, because a body may be unread."""
        self.close_connection = True
        text = (message or HTTPStatus(code).phrase) + "\n"
        self._send(code, "text/plain; charset=utf-8", text.encode("utf-8", "replace"), {"Connection": "close"})

    def _send(self, status: int, kind: str, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(content))} | HEADERS | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def version_string(self) -> str:
        """Return a name that reveals no software."""
        return "arena"

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing, because the first request's line holds the token."""


def is_loopback(host: str) -> bool:
    """Say whether a host names this machine alone."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str | None) -> bool:
    try:
        return bool(ipaddress.ip_address(name or ""))
    except ValueError:
        return False


def _json(value: object) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()
