"""Two models' images, a server of them, and a client: what the tests of the arena share.

The base's images are red and the policy's green, so a test sees on which side a model stands, as a rater cannot.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.arena_app.arena_pairs import Contents, Sets, left_model
from pipelines.arena_app.arena_server import Arena, ArenaServer
from pipelines.arena_app.arena_votes import QUESTIONS, VOTES, Choice, Vote, VoteLog, Votes
from support.judging_material import write_images

RED, GREEN = (200, 0, 0), (0, 200, 0)
CAPTIONS = ["a <b>bold</b> & 'quoted' ring", "two cats", "a red square", "blue"]
LEFT = dict.fromkeys(QUESTIONS, "left")


def write_sets(folder: Path, per_prompt: int = 1, **policy: Any) -> tuple[str, str]:
    base, tuned = (
        write_images(folder / name, {caption: [colour] * per_prompt for caption in CAPTIONS}, **told)
        for name, colour, told in (("secret-base", RED, {}), ("secret-policy", GREEN, policy))
    )
    return base, tuned


def voted(sets: Sets, wanted: dict[int, Sequence[Choice]]) -> Votes:
    """Let raters r0, r1, ... prefer models on the general question, by the pair's position; no preference elsewhere."""
    votes: Votes = {}
    for position, choices in wanted.items():
        pair = sets.pairs[position]
        for number, choice in enumerate(choices):
            rater = f"r{number}"
            left = left_model(pair, 0, rater)
            answer = "none" if choice is None else "left" if choice == left else "right"
            answers = dict.fromkeys(QUESTIONS, "none") | {"general": answer}
            at = f"2026-01-01T00:00:{number:02}+00:00"
            votes[rater, pair.image_id] = Vote(rater=rater, image_id=pair.image_id, left=left, answers=answers, at=at)
    return votes


@contextlib.contextmanager
def serving(sets: Sets, folder: Path, seed: int = 0) -> Iterator[ArenaServer]:
    """Serve all pairs, in one order for everybody to read: pair number n is sets.pairs[n]."""
    folder.mkdir(exist_ok=True)
    with (
        contextlib.closing(Contents(sets, sets.pairs, str(folder))) as contents,
        contextlib.closing(VoteLog(str(folder / VOTES))) as log,
        ArenaServer(Arena(sets.pairs, contents, log, seed), "127.0.0.1", 0) as server,
    ):
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Client:
    """Asks as a browser would, or does not."""

    def __init__(self, server: ArenaServer) -> None:
        self.host = f"127.0.0.1:{server.server_port}"
        self.cookie = f"{server.cookie}={server.token}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str | None) -> tuple[int, Any, bytes]:
        """Return status, headers and body; a header of None is left out."""
        told: dict[str, str | None] = {"Host": self.host, "Cookie": self.cookie, "Origin": f"http://{self.host}"}
        if body is not None:
            told |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(self.host, timeout=30)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in told.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.headers, content

    def get(self, path: str) -> bytes:
        status, _, content = self.ask("GET", path)
        assert status == 200, content
        return content

    def session(self, rater: str) -> list[dict[str, Any]]:
        return json.loads(self.get(f"/session?rater={rater}"))["pairs"]

    def vote(self, rater: Any, pair: Any, answers: Any, **headers: str | None) -> int:
        body = json.dumps({"rater": rater, "pair": pair, "answers": answers}).encode()
        return self.ask("POST", "/vote", body, **headers)[0]
