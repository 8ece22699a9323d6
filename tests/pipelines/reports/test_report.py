"""The report's figures on hand-made scores, its keys, its escaping, and what it refuses to compare."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import judging_material
from support.judging_material import score_folders, write_images, write_label_set, write_run, write_store
from support.pages import EVIL, Page

from infra.base import cli, files
from infra.base.errors import UserError
from pipelines.reports import report


def images(*reds: int) -> dict[str, list[tuple[int, int, int]]]:
    return {f"{EVIL} {number}": [(red, 0, 0)] for number, red in enumerate(reds)}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> report.ReportConfig:
    """Return a comparison with 2 wins, 1 loss and 1 tie for the policy."""
    judging_material.name_scorers(monkeypatch)
    base = write_images(tmp_path / "base", images(10, 20, 30, 40))
    policy = write_images(tmp_path / "policy", images(50, 60, 5, 40))
    score_folders(base, policy)
    return report.ReportConfig(
        base=base, policy=policy, train=write_run(tmp_path / "run"), store=write_store(tmp_path / "store"),
        output=str(tmp_path / "report"), judge="red",
    )  # fmt: skip


def made(config: report.ReportConfig) -> tuple[dict[str, Any], str]:
    report.main(config)
    output = Path(config.output)
    told = json.loads((output / "report.json").read_text(), parse_constant=pytest.fail)
    return told, (output / "report.html").read_text()


def test_figures_and_keys(config: report.ReportConfig) -> None:
    told, _ = made(config)
    again = ["--config", f"{config.output}/config.json"]
    assert cli.parse(report.ReportConfig, {}, again) == config
    # 2 wins, 1 loss, a tie: 2.5 of 4. Medians of 10 20 30 40, and of 50 60 5 40.
    assert told["win_rate"]["red"]["value"] == 0.625
    assert set(told["win_rate"]["red"]) == {"value", "low", "high", "n"}
    assert told["median"]["red"] == {"base": 25.0, "policy": 45.0}
    assert told["implicit_reward"] == {"accuracy": 0.625, "n": 8, "draws": 10}
    counts = told["store"]
    assert counts["rows_in"] == counts["ties"] + counts["quarantined"] + counts["kept"] == 10
    assert {"invalid", "prompts"} <= set(counts)
    assert {"steps", "pairs_per_second", "data_wait_fraction"} <= set(told["train"])
    assert told["config"]["train"]["objective"]["objective"] == "dpo"


def test_the_picture_has_the_base_above_the_policy(config: report.ReportConfig) -> None:
    made(config)
    reds = np.asarray(Image.open(Path(config.output) / "result.png"))[..., 0]
    assert reds.shape == (2 * 128, 4 * 128)
    shown = {(int(reds[64, 64 + 128 * k]), int(reds[192, 64 + 128 * k])) for k in range(4)}
    assert shown == {(10, 50), (20, 60), (30, 5), (40, 40)}  # the same prompt in a column


@pytest.mark.chaos
def test_captions_are_text_and_nothing_is_loaded_from_elsewhere(config: report.ReportConfig) -> None:
    _, html = made(config)
    page = Page(html)
    assert EVIL in page.text
    assert "script" not in page.tags
    assert page.loaded
    assert all(value.startswith(("data:image/", "#")) for value in page.loaded)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", html)


def test_the_result_stands_in_one_sentence(config: report.ReportConfig) -> None:
    _, html = made(config)
    heading = re.sub(r"<.*?>", "", re.findall(r"<h1.*?</h1>", html, re.DOTALL)[0])
    # Wilson at 2.5 of 4: centre (0.625 + 0.480) / 1.960 = 0.564, half width 0.344.
    assert "wins 62.5 % of 4 held-out prompts against its base model (95 % interval 21.9 to 90.8 %)" in heading
    assert "no difference is shown" in html  # the interval holds 50 %
    assert "control" not in Page(html.split("<details>")[0]).text  # there was none
    assert "labelled: unknown" in html  # the run's store has no label set any more


def test_a_judge_that_labelled_is_marked(config: report.ReportConfig, tmp_path: Path) -> None:
    sha = write_label_set(config.store, "red", scorer="red")
    write_run(tmp_path / "run", labels="red", labels_hash=sha, store=config.store)
    told, html = made(config)
    assert told["origin"]["scorers"]["red"]["labelled"] is True
    assert told["origin"]["unknown"] == ["base-model can't be looked up, so what it was trained on is unknown"]
    assert html.count("◆ labelled the training data") == 1
    assert "This judge also labelled" in html


def test_a_control_stands_beside(config: report.ReportConfig, tmp_path: Path) -> None:
    control = write_images(tmp_path / "control", images(0, 0, 0, 41))
    score_folders(control)
    run = write_run(tmp_path / "sft", objective="sft")
    told, html = made(replace(config, control=control, control_train=run))
    assert told["control"]["win_rate"]["red"]["value"] == 0.25
    assert told["control"]["policy_over_control"]["red"]["value"] == 0.75
    assert told["control"]["differs_in"] == {"objective": ["dpo", "sft"]}
    assert "its settings differ in objective (sft instead of dpo)" in Page(html).text
    with pytest.raises(UserError, match="--control or --control-train is missing"):
        report.main(replace(config, control=control))
    with pytest.raises(UserError, match="--control or --control-train is missing"):
        report.main(replace(config, control_train=run))


def test_only_the_model_may_differ(config: report.ReportConfig, tmp_path: Path) -> None:
    other = write_images(tmp_path / "other", images(1, 2, 3, 4), seed=7, guidance_scale=1.0)
    score_folders(other)
    with pytest.raises(UserError, match="drawn with different guidance_scale, seed; only the model may differ"):
        report.main(replace(config, policy=other))


def test_more_images_per_prompt_on_one_side(config: report.ReportConfig, tmp_path: Path) -> None:
    twice = {caption: [*colours, (255, 0, 0)] for caption, colours in images(50, 60, 5, 40).items()}
    policy = write_images(tmp_path / "twice", twice, images_per_prompt=2)
    score_folders(policy)
    told, _ = made(replace(config, policy=policy))
    assert told["win_rate"]["red"] == made(config)[0]["win_rate"]["red"]  # the first image of each prompt counts
    assert "diversity" in told["sets"]["policy"]
    assert "diversity" not in told["sets"]["base"]


def test_another_store_judge_or_unfinished_run_is_refused(config: report.ReportConfig, tmp_path: Path) -> None:
    stranger = write_run(tmp_path / "stranger", store_hash="cd" * 16)
    with pytest.raises(UserError, match="trained on another store"):
        report.main(replace(config, train=stranger))
    with pytest.raises(UserError, match=r"--judge green: it did not score both .*; choose one that did \(red\)"):
        report.main(replace(config, judge="green"))
    with pytest.raises(UserError, match="this run is not finished"):
        report.main(replace(config, train=str(tmp_path / "nothing")))
    with pytest.raises(UserError, match="no finished images here"):
        report.main(replace(config, base=str(tmp_path / "nothing")))


def test_scores_of_another_version_of_the_scorer_are_refused(
    config: report.ReportConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging_material.Red, "fingerprint", "the second")
    score_folders(config.policy)
    with pytest.raises(UserError, match=r"/policy and .*/base were scored by different versions of red; run score\.py"):
        report.main(config)
    score_folders(config.base)
    report.main(config)


@pytest.mark.slow
def test_everything_may_lie_on_s3(config: report.ReportConfig, bucket: str, tmp_path: Path) -> None:
    there = {name: f"{bucket}/{tmp_path.name}/{name}" for name in ("base", "policy", "train", "store", "output")}
    for name in ("base", "policy", "train", "store"):
        for path in files.list_files(folder := getattr(config, name)):
            files.copy(path, path.replace(folder, there[name]))
    report.main(replace(config, **there))
    told = json.loads(files.read_bytes(f"{there['output']}/report.json"))
    here, page = made(config)
    settings, others = told.pop("config"), here.pop("config")
    assert told == here
    assert settings["report"] == others["report"] | there
    remote_page = files.read_bytes(f"{there['output']}/report.html").decode()
    assert Page(remote_page).loaded == Page(page).loaded  # image pairs and the run's sample grids, byte by byte
    assert remote_page.count("<svg") == page.count("<svg") > 0  # the run's curves
    assert files.read_bytes(f"{there['output']}/result.png") == (Path(config.output) / "result.png").read_bytes()
    with pytest.raises(UserError, match=rf"^{there['store']}: this run is not finished, for s3://"):
        report.main(replace(config, train=there["store"]))
    with pytest.raises(UserError, match=r"^--output s3://not-there/report: there is no bucket not-there"):
        report.main(replace(config, output="s3://not-there/report"))
