"""Runs beside one another: the verdict by hand, settings that differ, a line in each chart for each run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from support.pages import EVIL, Page

from infra.base.errors import UserError
from pipelines.reports import compare
from pipelines.reports.compare_config import CompareConfig
from training.method.objective_config import ObjectiveConfig
from training.settings.config import DataConfig, TrainConfig


def write_run(folder: Path, beta: float, accuracy: float | None = None, count: int = 400) -> str:
    """Write a run of three steps; with an accuracy on held-out pairs it is finished."""
    folder.mkdir(parents=True)
    config = TrainConfig(output=str(folder), objective=ObjectiveConfig(beta=beta))
    (folder / "config.json").write_text(json.dumps(asdict(config)))
    rows = [{"step": step, "loss": 0.7 - step / 100, "accuracy": 0.5, "seconds": 1.0} for step in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = [{"step": 2, "validation_median": 0.2}, {"step": 3, "validation_median": 0.1}]
    (folder / "assessments.jsonl").write_text("".join(json.dumps(row) + "\n" for row in judged))
    if accuracy is not None:
        (folder / "result").mkdir()
        reward = {"accuracy": accuracy, "n": count, "draws": 10}
        (folder / "result" / "facts.json").write_text(json.dumps({"config": {}, "implicit_reward": reward}))
    return str(folder)


BASE = {"model": "base", "captions": "of the prompts", "seed": 0}


def write_report(folder: Path, base: Mapping[str, Any] = BASE, **rates: tuple[float, float, float]) -> str:
    folder.mkdir(parents=True)
    found = {
        judge: dict(zip(("value", "low", "high"), rate, strict=True)) | {"n": 100} for judge, rate in rates.items()
    }
    told = {"win_rate": found, "config": {"generate": {"base": base}}}
    (folder / "report.json").write_text(json.dumps(told))
    return str(folder)


def made(runs: Sequence[str], output: Path, reports: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    compare.main(CompareConfig(runs=tuple(runs), reports=tuple(reports), output=str(output)))
    return json.loads((output / "comparison.json").read_text()), (output / "comparison.html").read_text()


def test_overlapping_intervals_show_no_difference_and_apart_ones_do(tmp_path: Path) -> None:
    # Wilson at 95 %, n 400: 0.55 has 0.501 to 0.598, 0.60 has 0.551 to 0.647, 0.75 has 0.705 to 0.790.
    low = write_run(tmp_path / "low", 500, 0.55)
    high = write_run(tmp_path / "high", 5000, 0.60)
    far = write_run(tmp_path / "far", 2000, 0.75)
    told, _ = made([low, high], tmp_path / "a")
    assert told["verdict"] == (
        "No difference shown: high has the highest figure, 60.0% accuracy on held-out pairs "
        "(95 % interval 55.1 to 64.7 %), but intervals overlap"
    )
    told, _ = made([low, far, high], tmp_path / "b")
    assert told["is_shown"]
    assert told["verdict"].startswith("far is ahead: 75.0% accuracy on held-out pairs (95 % interval 70.5 to 79.0 %)")
    assert told["differing"] == {"objective.beta": [500.0, 2000.0, 5000.0]}
    assert [row["validation"] for row in told["runs"]] == [0.2] * 3
    assert [row["loss"] for row in told["runs"]] == [pytest.approx(0.67)] * 3


def test_of_equal_runs_none_has_the_highest_figure(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, 500, 0.60) for name in ("live", "cached")]
    told, _ = made(runs, tmp_path / "out")
    assert told["verdict"] == (
        "No difference shown: every run has 60.0% accuracy on held-out pairs (95 % interval 55.1 to 64.7 %)"
    )


def test_accuracies_on_other_held_out_pairs_are_no_verdict(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, 500, accuracy) for name, accuracy in (("a", 0.55), ("b", 0.75))]
    for run, content in zip(runs, ("one", "other"), strict=True):
        config = replace(TrainConfig(output=run), data=DataConfig(hold_out=0.1, store=f"{run}/store"))
        Path(run, "config.json").write_text(json.dumps(asdict(config)))
        Path(run, "stores.json").write_text(json.dumps({"store": content}))
    told, _ = made(runs, tmp_path / "out")
    assert told["verdict"].startswith("No difference shown: these 2 runs hold out other pairs each")
    assert not told["is_shown"]
    Path(runs[1], "stores.json").write_text(json.dumps({"store": "one"}))  # the same pairs at another place
    told, _ = made(runs, tmp_path / "out")
    assert told["verdict"].startswith("b is ahead: 75.0% accuracy on held-out pairs")


def test_win_rates_come_before_accuracy_and_only_judges_of_all_count(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "x" / "run", 500, 0.9), write_run(tmp_path / "y" / "run", 500, 0.1)]
    one = write_report(tmp_path / "r1", oracle=(0.9, 0.8, 0.95), clip=(0.5, 0.4, 0.6))
    two = write_report(tmp_path / "r2", clip=(0.7, 0.61, 0.8))
    told, html = made(runs, tmp_path / "out", [one, two])
    assert told["verdict"] == (
        "y/run is ahead: 70.0% win rate over its base, judged by clip (95 % interval 61.0 to 80.0 %), "
        "above every other run's interval"
    )
    page = Page(html)
    assert "None: these runs have the same settings." in page.text
    assert "oracle" not in page.text


def test_win_rates_over_other_base_images_are_refused(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, 500) for name in ("a", "b")]
    one = write_report(tmp_path / "r1", clip=(0.5, 0.4, 0.6))
    others = write_report(tmp_path / "r2", {**BASE, "captions": "of others", "seed": 1}, clip=(0.9, 0.8, 0.95))
    with pytest.raises(UserError, match=r"--reports .*r2: its win rates are over .*r1 \(captions, seed differ\); draw"):
        made(runs, tmp_path / "out", [one, others])
    nothing = write_report(tmp_path / "r3", {}, clip=(0.5, 0.4, 0.6))
    with pytest.raises(UserError, match=r"--reports .*r3: its report.json does not say what its base was"):
        made(runs, tmp_path / "out", [one, nothing])
    assert not (tmp_path / "out").exists()


def test_runs_that_share_no_figure_are_told_what_would_give_one(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / EVIL.replace("/", "_"), 1), write_run(tmp_path / "b", 2, 0.6)]
    told, html = made(runs, tmp_path / "out")
    assert told["verdict"].startswith("No difference shown: these 2 runs share no judge's win rates")
    assert not told["is_shown"]
    page = Page(html)
    assert EVIL.replace("/", "_") in page.text
    assert html.count("<svg") == 3  # validation score, accuracy in training and loss
    assert "<script" not in html


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"runs": ("{a}",)}, "runs: 1 named, and one alone compares with nothing; name two run folders"),
        ({"runs": ("{a}", "{a}")}, "{a}: is named twice; name each run once"),
        ({"runs": ("{a}", "{n}")}, "{n}: no run here, as it has no config.json; give the --output of train_dpo.py"),
        ({"reports": ("{a}",)}, "--reports: 1 folders for 2 runs; give one for each run"),
        (
            {"reports": ("{a}", "{a}")},
            "--reports {a}: holds no report.json with win rates; give a folder of report.py",
        ),
    ],
)
def test_what_is_no_comparison_is_refused(changes: dict[str, tuple[str, ...]], told: str, tmp_path: Path) -> None:
    places = {"a": write_run(tmp_path / "a", 1), "b": write_run(tmp_path / "b", 1), "n": str(tmp_path / "none")}
    config = CompareConfig(runs=(places["a"], places["b"]), output=str(tmp_path / "out"))
    given = {name: tuple(path.format(**places) for path in paths) for name, paths in changes.items()}
    with pytest.raises(UserError) as refused:
        compare.read_runs(replace(config, **given))  # type: ignore[arg-type]
    assert str(refused.value) == told.format(**places)
