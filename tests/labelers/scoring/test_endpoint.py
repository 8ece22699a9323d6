"""A judge behind an address: what it is asked, what its identity is, and which settings are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import chat_server
from support.chat_server import ChatServer, completion
from support.endpoint_fixtures import endpoint_config, judge_server, no_clock  # noqa: F401  (fixtures)
from support.endpoint_material import BLUE, PINK, RED, scorer

from infra.base import files
from infra.base.errors import UserError
from labelers.scoring import scorers
from labelers.scoring.endpoint_config import EndpointConfig


def test_both_orders_are_asked_and_disagreement_is_a_tie(server: ChatServer, config: EndpointConfig) -> None:
    judge = scorer(server, config)
    scores, reasons, counted = judge.judge_pairs([RED, BLUE, PINK], [BLUE, RED, PINK], ["a", "b", "c"])
    assert scores.tolist() == [[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]
    assert reasons == [None, None, None]
    # Of the third pair both orders are one question, and it was asked once.
    assert len(server.asked) == len(set(server.asked)) == 5
    assert counted["order_disagreements"].tolist() == [0, 0, 0]
    assert counted["prompt_tokens"].tolist() == [200, 200, 200]
    server.answer = lambda _body: '{"winner": 1}'  # whatever is shown first
    scores, _, counted = judge.judge_pairs([RED], [BLUE], ["another caption"])
    assert scores.tolist() == [[0.5], [0.5]]
    assert counted["order_disagreements"].tolist() == [1]


def test_what_is_sent(server: ChatServer, config: EndpointConfig, tmp_path: Path) -> None:
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Which suits {caption} and {braces}?")
    options = '{"max_tokens": null, "max_completion_tokens": 50, "temperature": 1}'
    changed = replace(config, rubric=str(rubric), request_options=options, image_side=16)
    scorer(server, changed).judge_pairs([Image.new("RGB", (64, 20))], [BLUE], ["a {caption}"])
    body = server.bodies[0]
    assert {name: value for name, value in body.items() if name != "messages"} == {
        "model": "tiny/Red-VL", "max_completion_tokens": 50, "temperature": 1,
    }  # fmt: skip
    parts = body["messages"][0]["content"]
    assert [part.get("text") for part in parts] == [
        "Which suits a {caption} and {braces}?", "Image 1:", None, "Image 2:", None,
    ]  # fmt: skip
    assert [image.size for image in chat_server.images_of(body)] == [(16, 5), (8, 6)]


def test_scores_are_asked_for_one_by_one(server: ChatServer, config: EndpointConfig) -> None:
    judge = scorer(server, replace(config, ask="pointwise"))
    assert judge.score([RED, PINK], ["a", "a"]).tolist() == [10.0, 8.0]  # 255 and 204 of 25.5
    assert len(server.asked) == 2
    scores, _, _ = judge.judge_pairs([RED], [PINK], ["a"])  # the same questions
    assert scores.tolist() == [[10.0], [8.0]]
    assert len(server.asked) == 2
    with pytest.raises(UserError, match="--ask pairwise judges pairs"):
        scorer(server, config).score([RED], ["a"])


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion("I would rather not say."), "no verdict in the answer"),
        (completion(None), "the answer is empty"),
        (completion('{"winner": 1', finish_reason="length"), "the answer was cut off at --answer-tokens"),
        (completion(None, finish_reason="content_filter"), "the model refused to answer"),
        ((400, {}, b'{"error": "too large"}'), "the server refused the request (400)"),
    ],
)
def test_an_answer_without_a_verdict_is_no_score(
    server: ChatServer, config: EndpointConfig, reply: chat_server.Reply, reason: str
) -> None:
    server.misbehave = lambda _number, body: reply if "bad" in body["messages"][0]["content"][0]["text"] else None
    scores, reasons, _ = scorer(server, config).judge_pairs([RED, RED], [BLUE, BLUE], ["bad", "good"])
    assert np.isnan(scores[:, 0]).all()
    assert scores[:, 1].tolist() == [1.0, 0.0]
    assert reasons == [reason, None]
    assert len(server.asked) == 4


def test_a_node_must_see_the_folder_of_answers_that_the_command_saw(
    server: ChatServer, config: EndpointConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with files.counting_from(tmp_path):
        described = scorer(server, replace(config, answers="kept")).endpoint.as_json()
    assert json.loads(described)["config"]["answers"] == str(tmp_path / "kept")
    judge = scorer(server, config)
    folder = Path(config.answers)
    folder.rename(tmp_path / "elsewhere")
    for content in (None, '{"id": "of another node"}'):
        if content:
            folder.mkdir()
            (folder / "folder.json").write_text(content)
        with pytest.raises(UserError, match=r"this node sees another folder there .*so questions would be asked twice"):
            judge.judge_pairs([RED], [BLUE], ["a"])
    monkeypatch.setattr(files, "ROOT", Path("/tmp/ray/runtime_resources/working_dir/package"))
    with pytest.raises(UserError, match=r"--answers answers: with --working-dir every path must be absolute"):
        scorer(server, replace(config, answers="answers"))


def test_identity_is_the_model_the_question_and_its_settings(
    server: ChatServer, config: EndpointConfig, tmp_path: Path
) -> None:
    plain = scorer(server, config).fingerprint
    pace = replace(config, requests_at_once=9, requests_per_minute=5, request_timeout=9, token_prices=(1.0, 2.0))
    assert scorer(server, pace).fingerprint == plain
    (tmp_path / "rubric.txt").write_text("Which?")
    others = [
        replace(config, endpoint_model="another"), replace(config, rubric=str(tmp_path / "rubric.txt")),
        replace(config, ask="pointwise"), replace(config, answer_tokens=9), replace(config, image_side=99),
        replace(config, request_options='{"seed": 1}'),
    ]  # fmt: skip
    prints = [scorer(server, other).fingerprint for other in others]
    assert len({plain, *prints}) == 7


@pytest.mark.parametrize(
    ("changes", "address", "message"),
    [
        ({}, "http://", "an address is http://host/v1"),
        ({}, "http://me:secret@host/v1", "an address is host and path alone; a key comes from the environment"),
        ({}, "https://host/v1?key=secret", "an address is host and path alone"),
        ({"rubric": "/nowhere.txt"}, None, "--rubric /nowhere.txt: no such file"),
        ({"request_options": "[]"}, None, "it is no JSON object"),
        ({"request_options": '{"stream": true}'}, None, "stream is not yours to choose"),
        ({"request_tries": 0}, None, "--request-tries 0: must be at least 1"),
    ],
)
def test_bad_settings_are_refused(
    server: ChatServer, config: EndpointConfig, changes: dict[str, Any], address: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        scorers.described([address or server.address], (), replace(config, **changes))
    assert "secret" not in str(refused.value)
    assert server.asked == []


def test_a_server_of_several_models_needs_a_name(server: ChatServer, config: EndpointConfig) -> None:
    server.models = ["a", "org/b 7B"]
    with pytest.raises(UserError, match=r"the server has 2 models \(a, org/b 7B\); name one by --endpoint-model"):
        scorers.described([server.address], (), config)
    assert list(scorers.described([server.address], (), replace(config, endpoint_model="org/b 7B"))) == ["b-7B"]
    with pytest.raises(UserError, match="this command takes no address"):
        scorers.load(server.address)
