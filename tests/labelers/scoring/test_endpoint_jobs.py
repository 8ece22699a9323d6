"""Jobs that ask a judge behind an address: going on after a kill, unanswered pairs, accuracies and drawn images."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import chat_server
from support.chat_server import ChatServer, completion, verdict
from support.endpoint_fixtures import endpoint_config, judge_server, no_clock  # noqa: F401  (fixtures)
from support.judging_material import write_images

from infra.base import files
from infra.base.errors import UserError
from labelers.labels import accuracy, label_set, relabel
from labelers.scoring import endpoint_answers, pair_scores, scoring_pass
from labelers.scoring.endpoint_config import EndpointConfig
from pipelines.judging import score, score_files
from pipelines.latents import label_files, store

pytestmark = pytest.mark.slow


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
