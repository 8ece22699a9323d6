"""The matrix on hand-made scores, its marks, its page, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import judging_material
from support.judging_material import score_folders, write_images, write_label_set, write_run, write_store
from support.pages import EVIL, Page

from infra.base import files
from infra.base.errors import UserError
from labelers.scoring import scorers
from pipelines.latents import label_files
from pipelines.reports import feedback_report

JUDGES = ("pickscore", "aesthetics", "oracle")  # here the means of red, green and red
ROWS = {  # red and green of four images; the base has reds 10 20 30 40 and green 1
    "human": [(50, 1), (60, 1), (5, 1), (40, 1)],
    "pickscore": [(50, 0), (60, 0), (70, 0), (80, 0)],
    "aesthetics": [(0, 9), (0, 9), (0, 9), (41, 9)],
}


def images(*colours: tuple[int, int]) -> dict[str, list[tuple[int, int, int]]]:
    return {f"{EVIL} {number}": [(red, green, 0)] for number, (red, green) in enumerate(colours)}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> feedback_report.FeedbackReportConfig:
    judging_material.name_scorers(monkeypatch)
    for name, channel in zip(JUDGES, ("Red", "Green", "Red"), strict=True):
        monkeypatch.setitem(scorers.SCORERS, name, f"support.judging_material:{channel}")
    pairs = write_store(tmp_path / "store")
    base = write_images(tmp_path / "base", images((10, 1), (20, 1), (30, 1), (40, 1)))
    policies = []
    for name, colours in ROWS.items():
        labels = write_label_set(pairs, name, None if name == "human" else name)
        run = write_run(tmp_path / "runs" / name, labels=name, labels_hash=labels)
        policies.append(write_images(tmp_path / name, images(*colours), model=f"{run}/result"))
    score_folders(base, *policies, names=JUDGES)
    return feedback_report.FeedbackReportConfig(
        base=base, policies=tuple(policies), store=pairs, judges=JUDGES, output=str(tmp_path / "report")
    )


def made(config: feedback_report.FeedbackReportConfig) -> tuple[dict[str, Any], str]:
    feedback_report.main(config)
    output = Path(config.output)
    told = json.loads((output / "report.json").read_text(), parse_constant=pytest.fail)
    return told, (output / "report.html").read_text()


def test_known_scores_give_the_known_matrix(
    config: feedback_report.FeedbackReportConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    told, _ = made(config)
    values = {row: [told["matrix"][row][judge]["value"] for judge in JUDGES] for row in told["rows"]}
    # Human: 2 wins, 1 loss, 1 tie by red; green is the base's. Pickscore: redder everywhere, less green everywhere.
    assert values == {"human": [0.625, 0.5, 0.625], "pickscore": [1, 0, 1], "aesthetics": [0.25, 1, 0.25]}
    cell = told["matrix"]["human"]["pickscore"]
    assert set(cell) == {"value", "low", "high", "n", "labelled"}
    assert (cell["low"], cell["high"], cell["n"]) == (pytest.approx(0.219, abs=1e-3), pytest.approx(0.908, abs=1e-3), 4)
    assert told["median"]["human"]["pickscore"] == {"base": 25.0, "policy": 45.0}
    assert "pickscore           100.0*" in capsys.readouterr().out


@pytest.mark.slow
def test_runs_and_their_images_may_lie_on_s3(
    config: feedback_report.FeedbackReportConfig, bucket: str, tmp_path: Path
) -> None:
    place = f"{bucket}/{tmp_path.name}"
    pairs, labels = write_store(f"{place}/store"), write_label_set(f"{place}/store", "human")
    run = write_run(f"{place}/run", labels_hash=labels)
    policy = write_images(f"{place}/images", images(*ROWS["human"]), model="base", lora=f"{run}/result")
    score_folders(policy, names=JUDGES)
    there = replace(config, policies=(policy,), store=pairs, output=f"{place}/report")
    feedback_report.main(there)
    told = files.read_json(f"{place}/report/report.json")
    assert {judge: told["matrix"]["human"][judge]["value"] for judge in JUDGES} == dict(
        zip(JUDGES, (0.625, 0.5, 0.625), strict=True)
    )
    assert files.is_file(f"{place}/report/report.html")


def test_the_judge_that_labelled_is_marked(config: feedback_report.FeedbackReportConfig) -> None:
    told, html = made(config)
    marked = {
        (row, judge) for row, cells in told["matrix"].items() for judge, cell in cells.items() if cell["labelled"]
    }
    assert marked == {("human", "oracle"), ("pickscore", "pickscore"), ("aesthetics", "aesthetics")}
    assert len(re.findall(r'<td class="own', html)) == 3
    assert "aesthetics judged by pickscore: 25.0 %, interval 4.6 to 69.9 %, 4 prompts" in html


def test_each_judge_whose_labels_were_combined_is_marked(
    config: feedback_report.FeedbackReportConfig, tmp_path: Path
) -> None:
    labels = write_label_set(config.store, "vote")
    manifest = Path(config.store, "labels", "vote", "manifest.json")
    hashes = {
        name: label_files.read_labels_manifest(config.store, name)["sha256"] for name in ("pickscore", "aesthetics")
    }
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"settings": {"sets": hashes}}))
    run = write_run(tmp_path / "runs" / "vote", labels="vote", labels_hash=labels)
    policy = write_images(tmp_path / "vote", images(*ROWS["pickscore"]), model=f"{run}/result")
    score_folders(policy, names=JUDGES)
    combined = replace(config, policies=(policy,))
    told, _ = made(combined)
    marks = {judge: cell["labelled"] for judge, cell in told["matrix"]["vote"].items()}
    assert marks == {"pickscore": True, "aesthetics": True, "oracle": False}
    Path(config.store, "labels", "aesthetics", "manifest.json").unlink()
    with pytest.raises(UserError, match=r"label set aesthetics is no longer in .*, so who labelled vote is unknown"):
        feedback_report.main(combined)


def test_json_has_what_a_larger_report_takes(config: feedback_report.FeedbackReportConfig) -> None:
    told, _ = made(config)
    assert set(told) == {
        "schema_version", "experiment", "rows", "judges", "matrix", "median", "hypotheses", "labels", "safety", "sets",
        "train", "differs_in", "config",
    }  # fmt: skip
    assert (told["schema_version"], told["experiment"]) == (1, "feedback")
    assert told["labels"]["human"]["agreement"] is None
    assert told["labels"]["pickscore"]["agreement"]["value"] == 0.75
    assert told["hypotheses"]["own_scorer_wins"]["answer"] == "yes"  # 4 of 4: Wilson's interval begins at 0.51
    assert told["config"]["judges"] == dict.fromkeys(JUDGES, "the first")


def test_page_escapes_and_loads_nothing(config: feedback_report.FeedbackReportConfig) -> None:
    _, html = made(config)
    page = Page(html)
    assert EVIL in page.text
    assert "script" not in page.tags
    # Four captions at random and the largest gain of each of three rows, by the base and three policies.
    assert len(page.loaded) == 7 * 4
    assert all(value.startswith("data:image/") for value in page.loaded)
    assert not re.search(r"@import|url\(", html)
    heading = re.sub(r"<.*?>", "", re.findall(r"<h1.*?</h1>", html, re.DOTALL)[0])
    assert heading.startswith("2 of 2 policies trained on AI feedback win by the scorer that labelled")


def test_other_settings_are_told(config: feedback_report.FeedbackReportConfig, tmp_path: Path) -> None:
    facts = tmp_path / "runs" / "pickscore" / "result" / "facts.json"
    facts.write_text(facts.read_text().replace('"beta": 500.0', '"beta": 7.0'))
    told, html = made(config)
    assert told["differs_in"] == {"human": {}, "pickscore": {"beta": [500.0, 7.0]}, "aesthetics": {}}
    assert "pickscore was also trained with other settings than human: beta 7.0 instead of 500.0" in Page(html).text


def test_a_missing_label_set_or_score_is_named(config: feedback_report.FeedbackReportConfig, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"human: fidelity has not scored these images; run score\.py --scorers fidelity"
    ):
        feedback_report.main(replace(config, base=config.policies[0], judges=("fidelity",)))
    unscored = write_images(tmp_path / "unscored", images((1, 1)), model=str(tmp_path / "runs" / "human" / "result"))
    with pytest.raises(UserError, match=r"unscored: not scored yet; run score\.py"):
        feedback_report.main(replace(config, policies=(unscored,)))
    with pytest.raises(UserError, match="another policy was trained on the labels human too"):
        feedback_report.main(replace(config, policies=config.policies[:1] * 2))
    with pytest.raises(UserError, match=r"base drew these images, and it is no result of train_dpo\.py"):
        feedback_report.main(replace(config, policies=(config.base,)))
    write_label_set(config.store, "aesthetics", "aesthetics", "another")
    with pytest.raises(UserError, match="the label set aesthetics is by another version of aesthetics"):
        feedback_report.main(config)
    (Path(config.store) / "labels" / "pickscore" / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"--labels pickscore: .* has the label sets aesthetics, human"):
        feedback_report.main(config)


def test_a_policy_scored_by_another_version_of_a_judge_is_refused(
    config: feedback_report.FeedbackReportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging_material.Green, "fingerprint", "the second")
    score_folders(config.policies[2], names=("aesthetics",))
    feedback_report.main(replace(config, judges=("pickscore", "oracle")))
    with pytest.raises(
        UserError, match=r"/aesthetics and .*/base were scored by different versions of aesthetics; run"
    ):
        feedback_report.main(config)


def test_labels_that_changed_after_training_are_refused(
    config: feedback_report.FeedbackReportConfig, tmp_path: Path
) -> None:
    facts = tmp_path / "runs" / "human" / "result" / "facts.json"
    facts.write_text(re.sub(r'"labels_hash": "\w+"', '"labels_hash": "0"', facts.read_text()))
    with pytest.raises(UserError, match=r"label set human changed after .*human was trained on it"):
        feedback_report.main(config)
