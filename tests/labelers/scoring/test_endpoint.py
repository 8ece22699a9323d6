"""A judge behind an address: what is asked, how answers are read, and what a server may do without harm."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import chat_server
from support.chat_server import ChatServer, completion, verdict
from support.judging_material import write_images

from infra.base import files
from infra.base.errors import UserError
from infra.base.logs import redact
from labelers.labels import accuracy, label_set, relabel
from labelers.scoring import endpoint, endpoint_answers, endpoint_client, pair_scores, scorers, scoring_pass
from labelers.scoring.endpoint_client import Pace, retry_after
from labelers.scoring.endpoint_config import EndpointConfig
from pipelines.judging import score, score_files
from pipelines.latents import label_files, store

RED, PINK, BLUE = (Image.new("RGB", (8, 6), colour) for colour in ("red", "#cc8888", "blue"))
KEY = "sk-not-for-anybodys-eyes"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server.serving() as started:
        yield started


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Take the place of the clock: a pause is noted, and over at once."""
    pauses: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(endpoint, "Pace", lambda per_minute: Pace(per_minute, lambda: now[0], sleep))
    monkeypatch.delenv(endpoint_client.KEY, raising=False)
    return pauses


@pytest.fixture
def config(tmp_path: Path) -> EndpointConfig:
    return EndpointConfig(answers=str(tmp_path / "answers"), requests_at_once=1)


def scorer(server: ChatServer, config: EndpointConfig) -> endpoint.EndpointScorer:
    ((name, described),) = scorers.described([server.address], (), config).items()
    made = scorers.load(name, described)
    assert isinstance(made, endpoint.EndpointScorer)
    return made


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('Fine. {"score": 7.25}', 7.25),
        ('First {"score": 2}, no: {"score": "6"}', 6.0),
        ("Alignment Score (1-5): 2.5\nCoherence Score (1-5): 3\nStyle Score (1-5): 4.1\n", 3.2),  # (2.5 + 3 + 4.1) / 3
        ("Coherence score: 1\nFinal Score: 4", 4.0),
        ('<think>{"score": 1}</think>{"score": 9}', 9.0),
        ("8/10", 8.0),
        ("-1.5", -1.5),
        ("I like it, 3 stars out of many.", None),
        ('{"score": high}', None),
        (f'{{"score": 1{"0" * 400}}}', None),  # no finite number
    ],
)
def test_a_score_is_read(answer: str, score: float | None) -> None:
    assert endpoint_answers.read_score(answer) == (score if score is None else pytest.approx(score))


@pytest.mark.parametrize(
    ("answer", "points"),
    [
        ('{"winner": 1}', 1.0),
        ('{"winner": "2"}', 0.0),
        ('Image 2 is better, at first. {"winner": "tie"}', 0.5),
        ("<answer>Image 1 is better</answer>", 1.0),
        ("Image 2 is slightly better", 0.0),
        ("winner: Image 2", 0.0),
        # UnifiedReward 2.0's three aspects: 0.4 + 0.7 + 0.3 = 1.4 against 1.6
        ("Alignment Score:\n Image 1: 0.4\n Image 2: 0.6\nCoherence Score:\n Image 1: 0.7\n Image 2: 0.3\n"
         "Style Score:\n Image 1: 0.3\n Image 2: 0.7", 0.0),
        ("Image 1: 0.5\nImage 2: 0.5", 0.5),
        ("Image 1: 0.5", None),
        ("Both are lovely.", None),
        ('<think>{"winner": 1}</think>', None),
    ],
)  # fmt: skip
def test_a_verdict_is_read(answer: str, points: float | None) -> None:
    assert endpoint_answers.read_verdict(answer) == points


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


@pytest.fixture
def labelling(raw_pairs: Path, copied_store: Path, server: ChatServer, config: EndpointConfig) -> relabel.RelabelConfig:
    return relabel.RelabelConfig(
        scorer=(server.address,),
        source=str(raw_pairs),
        store=str(copied_store),
        endpoint=replace(config, token_prices=(2.0, 10.0), requests_at_once=4),
        speed=scoring_pass.SpeedConfig(batch_size=8, rows_per_file=32),
    )


@pytest.mark.usefixtures("noted_jobs")
def test_a_killed_job_goes_on_and_asks_nothing_twice(
    labelling: relabel.RelabelConfig, server: ChatServer, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    score: Callable[..., Any] = pair_scores.ScorePairs.score
    batches: list[int] = []

    def die(self: pair_scores.ScorePairs, decoded: pair_scores.Decoded, on_trial: bool = False) -> Any:
        scored = score(self, decoded, on_trial)  # asked and answered, and not yet written
        batches.append(scored.num_rows)
        if len(batches) == 7:
            raise KeyboardInterrupt
        return scored

    monkeypatch.setattr(pair_scores.ScorePairs, "score", die)
    with pytest.raises(KeyboardInterrupt):
        relabel.main(labelling)
    monkeypatch.setattr(pair_scores.ScorePairs, "score", score)
    assert label_files.label_sets(labelling.store) == ["human"]
    begun = len(server.asked)
    relabel.main(labelling)
    assert begun < len(server.asked)
    assert len(server.asked) == len(set(server.asked))
    table, manifest = (
        label_files.read_labels(labelling.store, "Red-VL"),
        label_files.read_labels_manifest(labelling.store, "Red-VL"),
    )
    counts = manifest["counts"]
    pairs = table[0].num_rows
    assert counts["prompt_tokens"] == 2 * 100 * pairs
    assert counts["completion_tokens"] == 2 * 7 * pairs
    assert counts["cost"] == pytest.approx((2.0 * 200 * pairs + 10.0 * 14 * pairs) / 1e6)
    assert counts["order_disagreements"] == 0
    assert (manifest["settings"]["scorer"], manifest["judge"]) == ("Red-VL", "Red-VL")
    rubric = hashlib.sha256(endpoint_answers.RUBRICS["pairwise"].encode()).hexdigest()
    assert (
        manifest["provenance"].items() >= {"model": "tiny/Red-VL", "rubric_sha256": rubric, "ask": "pairwise"}.items()
    )
    said = capsys.readouterr().out
    assert "prompt tokens" in said
    asked = len(server.asked)
    relabel.main(labelling)
    relabel.main(replace(labelling, names=("again",), min_margin=0.1))  # another rule takes the known scores
    assert len(server.asked) == asked
    again = label_files.read_labels_manifest(labelling.store, "again")["counts"]
    assert again["prompt_tokens"] == counts["prompt_tokens"]


@pytest.mark.usefixtures("noted_jobs")
def test_what_cannot_be_read_is_counted_by_its_reason(labelling: relabel.RelabelConfig, server: ChatServer) -> None:
    server.misbehave = lambda number, _body: completion("Hard to say.") if number % 16 == 15 else None
    relabel.main(labelling)
    manifest = label_files.read_labels_manifest(labelling.store, "Red-VL")
    lost = manifest["reasons"]["no verdict in the answer"]
    assert lost == manifest["counts"]["quarantined"] > 0
    assert "secret" not in json.dumps(manifest)
    assert label_set.summary(manifest).count("no verdict in the answer") == 1


def fail_some(server: ChatServer, places: Collection[int] = (3, 9)) -> None:
    """Let a server fail at some questions about images whenever they are asked, by their places among all such."""
    asked: list[dict[str, Any]] = []

    def fail(_number: int, body: dict[str, Any]) -> chat_server.Reply | None:
        if isinstance(body["messages"][0]["content"], str):
            return None  # a plain one
        if body not in asked:
            asked.append(body)
        return (503, {}, b"") if asked.index(body) in places else None

    server.misbehave = fail


@pytest.fixture
def few_pairs(labelling: relabel.RelabelConfig, held_out_store: Path, tmp_path: Path) -> relabel.RelabelConfig:
    """Label the 14 kept pairs of a small store; each question is sent once."""
    path = shutil.copytree(held_out_store, tmp_path / "few", ignore=shutil.ignore_patterns(".lock"))
    asking = replace(labelling.endpoint, requests_at_once=1, request_tries=1)
    return replace(labelling, source=str(held_out_store.parent / "raw"), store=str(path), endpoint=asking)


@pytest.mark.usefixtures("noted_jobs")
def test_what_the_server_failed_to_answer_is_asked_again_and_nothing_else(
    few_pairs: relabel.RelabelConfig, server: ChatServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_some(server)
    relabel.main(few_pairs)
    before = Path(few_pairs.store, "labels", "Red-VL", store.MANIFEST).read_bytes()
    assert json.loads(before)["reasons"] == {"no answer: the server failed (503)": 2}
    assert "2 pairs have no answer yet; the same command asks for these again" in capsys.readouterr().out
    assert len(server.asked) == 28 + 2  # both orders of 14 pairs on trial, and the two that failed once more
    relabel.main(few_pairs)  # the server still fails: nothing is gained, and the label set stays to the byte
    assert len(server.asked) == 30 + 2
    assert Path(few_pairs.store, "labels", "Red-VL", store.MANIFEST).read_bytes() == before
    shutil.rmtree(few_pairs.endpoint.answers)  # what is in the label set needs no other record
    server.misbehave = lambda _number, _body: None
    relabel.main(few_pairs)
    assert len(server.asked) == 32 + 2 * 2  # both orders of these pairs
    manifest = label_files.read_labels_manifest(few_pairs.store, "Red-VL")
    assert (manifest["rows"], manifest["counts"]["quarantined"]) == (14, 0)
    assert manifest["counts"]["prompt_tokens"] == 2 * 100 * 14
    assert manifest["counts"]["cost"] == pytest.approx((2.0 * 200 + 10.0 * 14) * 14 / 1e6)
    assert not list(Path(few_pairs.store, "labels", store.WORK).rglob("*.parquet"))
    relabel.main(few_pairs)
    assert len(server.asked) == 36
    assert "already finished" in capsys.readouterr().out


@pytest.mark.usefixtures("noted_jobs")
@pytest.mark.parametrize("lost", [2, 8])  # 8 are a whole batch, the second time
def test_pairs_that_a_server_never_answers_end_no_command(
    few_pairs: relabel.RelabelConfig, server: ChatServer, capsys: pytest.CaptureFixture[str], lost: int
) -> None:
    fail_some(server, [*range(lost), *range(14, 14 + lost)])  # the first of 14 pairs, in either order
    server.answer = lambda body: "yes" if isinstance(body["messages"][0]["content"], str) else verdict(body)
    for _ in range(2):
        relabel.main(few_pairs)
        assert f"{lost} pairs have no answer yet" in capsys.readouterr().out
    assert label_files.read_labels_manifest(few_pairs.store, "Red-VL")["rows"] == 14 - lost
    shutil.rmtree(few_pairs.endpoint.answers)
    fail_some(server, range(28))
    another = replace(few_pairs, names=("other",), endpoint=replace(few_pairs.endpoint, answer_tokens=9))
    with pytest.raises(UserError, match=r"no answer: the server failed .*, on every one of 14 pairs"):  # at the trial
        relabel.main(another)


@pytest.mark.usefixtures("noted_jobs")
def test_an_answer_that_cannot_be_read_is_an_answer_and_is_not_asked_for_again(
    few_pairs: relabel.RelabelConfig, server: ChatServer
) -> None:
    fail_some(server)
    relabel.main(few_pairs)
    server.misbehave = lambda _number, _body: completion("Hard to say.")
    relabel.main(few_pairs)
    manifest = label_files.read_labels_manifest(few_pairs.store, "Red-VL")
    assert (manifest["rows"], manifest["reasons"]) == (12, {"no verdict in the answer": 2})
    asked = len(server.asked)
    relabel.main(few_pairs)
    assert len(server.asked) == asked


@pytest.mark.usefixtures("noted_jobs")
def test_an_accuracy_asks_again_too(few_pairs: relabel.RelabelConfig, server: ChatServer, tmp_path: Path) -> None:
    figures = str(tmp_path / "figures.json")
    settings = accuracy.AccuracyConfig(
        scorers=few_pairs.scorer, source=few_pairs.source, output=str(tmp_path / "accuracy"), json=figures,
        endpoint=few_pairs.endpoint,
    )  # fmt: skip
    fail_some(server)
    accuracy.main(settings)
    assert (files.read_json(figures)["rows"][0]["unanswered"], len(server.asked)) == (2, 32 + 2)
    server.misbehave = lambda _number, _body: None
    accuracy.main(settings)
    assert (files.read_json(figures)["rows"][0]["unanswered"], len(server.asked)) == (0, 34 + 2)
    accuracy.main(settings)
    assert len(server.asked) == 36


@pytest.mark.usefixtures("noted_jobs")
def test_drawn_images_are_scored_and_named_after_the_model(
    server: ChatServer, config: EndpointConfig, tmp_path: Path
) -> None:
    write_images(tmp_path / "drawn", {"a": [(40, 0, 0)], "b": [(240, 0, 0)]})
    settings = score.ScoreConfig(
        images=(str(tmp_path / "drawn"),), scorers=(server.address,), endpoint=replace(config, ask="pointwise")
    )
    score.main(settings)
    scores = score_files.read_scores(str(tmp_path / "drawn"))["Red-VL"].to_pylist()
    assert sorted(scores) == pytest.approx([40 / 25.5, 240 / 25.5])
    score.main(settings)
    assert len(server.asked) == 2
