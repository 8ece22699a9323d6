"""What a judge's server may do without harm, how it is asked again, and where its key goes."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import chat_server
from support.chat_server import ChatServer, verdict
from support.endpoint_fixtures import endpoint_config, judge_server, no_clock  # noqa: F401  (fixtures)
from support.endpoint_material import BLUE, PINK, RED, scorer

from infra.base.errors import UserError
from infra.base.logs import redact
from labelers.scoring import endpoint, endpoint_client
from labelers.scoring.endpoint_client import Pace, retry_after
from labelers.scoring.endpoint_config import EndpointConfig

KEY = "sk-not-for-anybodys-eyes"


@pytest.mark.parametrize(
    ("reply", "pauses"),
    [
        ((429, {"Retry-After": "17"}, b""), [17.0, 17.0]),
        ((429, {}, b""), [1.0, 2.0]),
        ((503, {}, b"busy"), [1.0, 2.0]),
        ((200, {}, b"<html>proxy</html>"), [1.0, 2.0]),
        ((200, {}, b'{"error": {"code": 502}}'), [1.0, 2.0]),  # as some gateways answer
    ],
)
def test_a_busy_server_is_asked_again_after_a_pause(
    server: ChatServer, config: EndpointConfig, slept: list[float], reply: chat_server.Reply, pauses: list[float]
) -> None:
    server.misbehave = lambda number, _body: reply if number < 2 else None
    assert scorer(server, config).judge_pairs([RED], [BLUE], ["a"])[0].tolist() == [[1.0], [0.0]]
    assert slept == pauses
    assert len(server.asked) == 4


def test_an_answer_that_does_not_come_in_time_is_asked_for_again(server: ChatServer, config: EndpointConfig) -> None:
    held = threading.Event()

    def hold(number: int, body: dict[str, Any]) -> chat_server.Reply | None:
        del body
        if number == 0:
            held.wait(20)
        return None

    server.misbehave = hold
    scores, reasons, _ = scorer(server, replace(config, request_timeout=0.3)).judge_pairs([RED], [BLUE], ["a"])
    held.set()
    assert (scores.tolist(), reasons) == ([[1.0], [0.0]], [None])


def test_one_question_that_always_fails_costs_itself_and_an_outage_ends_the_job(
    server: ChatServer, config: EndpointConfig, slept: list[float]
) -> None:
    server.misbehave = lambda _number, body: (
        (500, {}, b"") if "poison" in body["messages"][0]["content"][0]["text"] else None
    )
    judge = scorer(server, replace(config, request_tries=3))
    scores, reasons, _ = judge.judge_pairs([RED, RED], [BLUE, BLUE], ["poison", "a"])
    assert reasons == ["no answer: the server failed (500)", None]
    assert scores[:, 1].tolist() == [1.0, 0.0]
    assert slept == [1.0, 2.0] * 2  # of three tries, for either order
    # Two such pairs are four failures in a row. After the third the server answers a plain question, so it is not down.
    server.answer = lambda body: "yes" if isinstance(body["messages"][0]["content"], str) else verdict(body)
    server.misbehave = lambda _number, body: None if isinstance(body["messages"][0]["content"], str) else (500, {}, b"")
    _, reasons, _ = judge.judge_pairs([RED, RED], [PINK, PINK], ["u", "v"])
    assert reasons == ["no answer: the server failed (500)"] * 2
    assert [body for body in server.bodies if isinstance(body["messages"][0]["content"], str)] == [
        {**server.bodies[0], "messages": [{"role": "user", "content": endpoint_client.PLAIN}]}
    ]
    server.misbehave = lambda _number, _body: (503, {}, b"")
    with pytest.raises(
        UserError, match=r"the server failed \(503\), 3 questions in a row; .*run the same command again"
    ):
        judge.judge_pairs([RED] * 4, [PINK] * 4, ["w", "x", "y", "z"])


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((401, {}, b"sk-12*** is wrong"), r"the server refuses the key in JUDGE_API_KEY \(401\)"),
        ((404, {}, b""), r"no chat/completions there \(404\)"),
        ((308, {"Location": "https://elsewhere/v1"}, b""), r"the server sends elsewhere \(308\)"),
        ((429, {"Retry-After": "7200"}, b""), r"asks to wait 7200 seconds \(429\); run the same command again then"),
    ],
)
def test_what_every_question_would_meet_ends_the_job(
    server: ChatServer, config: EndpointConfig, monkeypatch: pytest.MonkeyPatch,
    reply: chat_server.Reply, message: str,
) -> None:  # fmt: skip
    monkeypatch.setenv(endpoint_client.KEY, KEY)
    server.misbehave = lambda _number, _body: reply
    with pytest.raises(UserError, match=message) as refused:
        scorer(server, config).judge_pairs([RED], [BLUE], ["a"])
    assert KEY not in str(refused.value)
    assert len(server.asked) == 1  # and the key went nowhere else


def test_the_key_is_sent_and_written_nowhere(
    server: ChatServer, config: EndpointConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    scorer(server, config).judge_pairs([RED], [BLUE], ["no key"])
    assert "Authorization" not in server.headers[-1]
    monkeypatch.setenv(endpoint_client.KEY, KEY)
    server.misbehave = lambda _number, _body: (422, {}, f"what of {KEY}?".encode())
    judge = scorer(server, config)
    with caplog.at_level(logging.WARNING):
        judge.judge_pairs([RED], [BLUE], ["a key"])
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    assert "it refused a request (422): what of ...?" in caplog.text
    kept = "".join(path.read_text() for path in Path(config.answers).rglob("*.json"))
    assert KEY not in kept + judge.endpoint.as_json() + caplog.text
    assert redact(f"so {KEY} it is") == "so [JUDGE_API_KEY] it is"
    monkeypatch.delenv(endpoint_client.KEY)
    elsewhere = endpoint.EndpointScorer(judge.endpoint.as_json())  # a node without it
    assert elsewhere.fingerprint == judge.fingerprint
    with pytest.raises(UserError, match="JUDGE_API_KEY is set where the command was started and not on this node"):
        elsewhere.judge_pairs([RED], [BLUE], ["a"])


def test_a_pace_spreads_requests_and_holds_all_of_them() -> None:
    now = [100.0]
    slept: list[float] = []
    pace = Pace(30, lambda: now[0], slept.append)  # one in two seconds
    pace.wait()
    pace.wait()
    now[0] = 101.0
    pace.wait()
    assert slept == [2.0, 3.0]  # at 102 and 104
    pace.pause(50)
    pace.wait()
    assert slept[-1] == 50.0


def test_retry_after_is_seconds_or_a_date() -> None:
    now = "Thu, 01 Jan 2026 12:00:00 GMT"
    assert retry_after("1.5", now) == 1.5
    assert retry_after("Thu, 01 Jan 2026 12:00:30 GMT", now) == 30.0
    assert retry_after("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0.0
    assert retry_after("soon", now) is retry_after(None, now) is None
    assert retry_after("Thu, 01 Jan 2026 12:00:30 GMT", None) is None  # nothing says how far that is
