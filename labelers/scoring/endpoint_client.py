"""Asks a server that speaks the chat protocol: patiently, at a bounded rate, and each question once.

Answers lie in a folder, one file for each, under the hash of what was asked. They outlive a killed run, and any number
of processes share them. The key comes from the environment and is written nowhere.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from infra.base import files
from infra.base.errors import UserError
from infra.base.logs import LOGGER
from labelers.scoring.endpoint_answers import Answer
from labelers.scoring.reasons import UNANSWERED

KEY = "JUDGE_API_KEY"  # variable of the environment
CONNECT = 10.0  # seconds to reach a server
LONGEST_PAUSE = 60.0  # seconds of our own pauses
PATIENCE = 600.0  # seconds that a server may ask us to wait; beyond that the command ends and can be run again
OUTAGE = 3  # questions in a row that failed at every try: then a plain one tells whether the server is down
PLAIN = "Reply with the word yes."
TRY_AGAIN = (408, 409, 425, 429)  # and 500 or above
REFUSED = "the server refused the request"


class _Bearer(AuthBase):
    """Sends the key. Without an auth of its own, requests would send what ~/.netrc has for the host in its place."""

    def __init__(self, key: str | None) -> None:
        self.key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.key:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request


class Pace:
    """Spreads requests in time, for all threads of a process."""

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.interval = 60 / per_minute if per_minute else 0.0
        self.clock = clock
        self.sleep = sleep
        self.lock = threading.Lock()
        self.next = float("-inf")

    def wait(self) -> None:
        """Return when the next request may go."""
        with self.lock:
            now = self.clock()
            start = max(now, self.next)
            self.next = start + self.interval
        if start > now:
            self.sleep(start - now)

    def pause(self, seconds: float) -> None:
        """Let no request go before so many seconds have passed."""
        with self.lock:
            self.next = max(self.next, self.clock() + seconds)


def key() -> str | None:
    """Return the key that the environment has, if any."""
    return os.environ.get(KEY, "").strip() or None


def check_address(address: str) -> str:
    """Return an address without its last slash.

    Raises:
        UserError: if it has no host, a user, a key or options in it; these are not repeated.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError("--scorer: an address is http://host/v1 or https://host/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(f"--scorer: an address is host and path alone; a key comes from the environment, as {KEY}")
    return address.rstrip("/")


class Client:
    """Asks one model at one address."""

    def __init__(
        self,
        *,
        address: str,
        folder: str,
        timeout: float,
        tries: int,
        pace: Pace,
    ) -> None:
        self.address = address
        self.folder = folder
        self.timeout = timeout
        self.tries = tries
        self.pace = pace
        self.auth = _Bearer(key())
        self.local = threading.local()
        self.failed = 0  # questions in a row
        self.said: set[int] = set()  # statuses whose words were printed
        self.ended: UserError | None = None  # why nothing more is asked

    def ask(self, name: str, body: Callable[[], Mapping[str, Any]]) -> Answer:
        """Return the answer to a question, from the folder where it lies there.

        Args:
            name: of the question: its hash.
            body: makes the request.

        Raises:
            UserError: if the server refuses everybody, or has stopped answering.
        """
        path = files.join(self.folder, name[:2], f"{name}.json")
        if files.exists(path):
            return Answer(**files.read_json(path))
        if self.ended:  # another thread met it
            raise self.ended
        try:
            return self._ask(path, body())
        except UserError as error:
            self.ended = error
            raise

    def _ask(self, path: str, body: Mapping[str, Any]) -> Answer:
        answer = self._send("chat/completions", body, Answer.of)
        if isinstance(answer, Answer):
            self.failed = 0
            files.write_json(path, asdict(answer))
            return answer
        if answer.startswith(REFUSED):
            return Answer(text=None, reason=answer)
        self.failed += 1
        if self.failed >= OUTAGE:
            self._refuse_outage(answer, body)
        return Answer(text=None, reason=f"{UNANSWERED}{answer}")

    def _refuse_outage(self, problem: str, body: Mapping[str, Any]) -> None:
        """End where the server answers nothing; one that answers a plain question fails at these questions alone.

        Raises:
            UserError: if it does not answer that one either.
        """
        plain = [{"role": "user", "content": PLAIN}]
        answer = self._send("chat/completions", {**body, "messages": plain}, Answer.of)
        if not isinstance(answer, Answer) and not answer.startswith(REFUSED):
            raise UserError(
                f"scorer {self.address}: {problem}, {self.failed} questions in a row; the answers so far are kept in "
                f"{self.folder}: run the same command again once the server answers"
            )
        self.failed = 0

    def models(self) -> list[str]:
        """List the models that the server has.

        Raises:
            UserError: if it does not say.
        """
        listed = self._send("models", None, lambda reply: [str(one["id"]) for one in reply["data"]])
        if isinstance(listed, str):
            raise UserError(f"scorer {self.address}: {listed}, asked for its models; give --endpoint-model, or mend it")
        return listed

    def _send(self, place: str, body: Mapping[str, Any] | None, read: Callable[[Any], Any]) -> Any:
        """Send a request until it is answered; returns what `read` makes of the reply, else why there is none."""
        content = None if body is None else json.dumps(body).encode()
        problem = ""
        for attempt in range(self.tries):
            self.pace.wait()
            wait = min(LONGEST_PAUSE, 2.0**attempt)
            try:
                response = self._request(place, content)
            except requests.Timeout:
                problem = "the server did not answer in time"
            except requests.RequestException as error:
                problem = f"the server cannot be reached ({type(error).__name__})"
            else:
                refusal = self._refusal(response, place)
                if refusal:
                    return refusal
                problem = f"the server failed ({response.status_code})"
                wait = self._asked_wait(response) or wait
                if response.status_code == 200:
                    try:
                        return read(response.json())
                    except (ValueError, KeyError, TypeError):
                        problem = "the server's reply is not of the chat protocol"
            if attempt + 1 < self.tries:
                self.pace.pause(wait)
        return problem

    def _request(self, place: str, content: bytes | None) -> requests.Response:
        if not hasattr(self.local, "session"):
            self.local.session = requests.Session()
        return self.local.session.request(
            "GET" if content is None else "POST",
            f"{self.address}/{place}",
            data=content,
            headers={"Content-Type": "application/json"},
            auth=self.auth,
            timeout=(CONNECT, self.timeout),
            allow_redirects=False,
        )

    def _refusal(self, response: requests.Response, place: str) -> str | None:
        """Return why a question is refused for good; None where it is answered, or another try may help.

        Raises:
            UserError: where every question would be refused.
        """
        status = response.status_code
        at = f"scorer {self.address}: "
        if status in (401, 402, 403):
            has = f"the key in {KEY}" if self.auth.key else f"requests without a key; set {KEY}"
            raise UserError(f"{at}the server refuses {has} ({status})")
        if status in (404, 405):
            raise UserError(f"{at}no {place} there ({status}); give the address up to /v1, and the model's exact name")
        if 300 <= status < 400:
            raise UserError(f"{at}the server sends elsewhere ({status}); give the address where it answers itself")
        if status < 400 or status >= 500 or status in TRY_AGAIN:
            return None
        if status not in self.said:
            self.said.add(status)
            LOGGER.warning("%sit refused a request (%d): %s", at, status, self._words(response))
        return f"{REFUSED} ({status})"

    def _words(self, response: requests.Response) -> str:
        """Return the server's own words, shortened, without the key."""
        words = " ".join(response.text.split())[:200]
        return words.replace(self.auth.key, "...") if self.auth.key else words

    def _asked_wait(self, response: requests.Response) -> float | None:
        """Return the seconds that the server asks to wait, by Retry-After.

        Raises:
            UserError: if they are more than anybody would watch.
        """
        seconds = retry_after(response.headers.get("Retry-After"), response.headers.get("Date"))
        if seconds is not None and seconds > PATIENCE:
            raise UserError(
                f"scorer {self.address}: the server asks to wait {seconds:.0f} seconds ({response.status_code}); run "
                f"the same command again then: the answers so far are kept in {self.folder}"
            )
        return seconds


def retry_after(header: str | None, answered: str | None) -> float | None:
    """Read a Retry-After header as seconds; None where there is none that can be read.

    Args:
        header: seconds, or a date.
        answered: the answer's Date header, by the same clock as that date; this machine's may be wrong.
    """
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        now = parsedate_to_datetime(answered or "")
        return max(0.0, (parsedate_to_datetime(header) - now).total_seconds())
    except (ValueError, TypeError):
        return None
