"""Judges' names with their weights, the verdict of an interval, and how long a run trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.base import files
from infra.pages.page import template
from pipelines.reports import judges
from pipelines.reports.report_page import TEMPLATES
from training.checkpoints.run_folder import STEPS


def test_training_takes_the_sum_of_its_steps(tmp_path: Path) -> None:
    path = tmp_path / STEPS
    path.write_text("".join(json.dumps({"step": step, "seconds": 1.5}) + "\n" for step in (1, 2, 3)))
    assert judges.training_seconds(str(tmp_path)) == 4.5
    path.write_text(json.dumps({"step": 1}) + "\n")  # a run from before steps had their seconds
    assert judges.training_seconds(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("weights", "title"),
    [
        ([], "clip (embedded world)"),
        (["published"], "clip (published)"),
        (["published", "clip=/models/mine"], "clip (mine)"),
        (["published", "pickscore=world"], "clip (published)"),
    ],
)
def test_a_judges_weights_stand_in_its_name(tmp_path: Path, weights: list[str], title: str) -> None:
    manifest = {"schema_version": 1, "identity": {}, "config": {"weights": weights}}
    for name in ("clip", "oracle", "hpsv2.1"):
        files.write_json(str(tmp_path / "scores" / name / "manifest.json"), manifest)
    assert judges.judge_titles(str(tmp_path), ["clip", "oracle"]) == {"clip": title, "oracle": "oracle"}
    assert judges.judge_titles(str(tmp_path), ["hpsv2.1"])["hpsv2.1"].startswith("hpsv2.1 (")


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict", "opening"),
    [
        (0.6, 0.4, 0.8, "open", "No difference shown: the policy"),
        (0.4, 0.3, 0.5, "open", "No difference shown: the policy"),  # the end counts as held
        (0.7, 0.6, 0.8, "won", "The policy"),
        (0.2, 0.1, 0.3, "lost", "The base does better: the policy"),
    ],
)
def test_the_verdict_comes_from_the_interval(value: float, low: float, high: float, verdict: str, opening: str) -> None:
    parts = template("page_parts.html.jinja", TEMPLATES).make_module()
    rate = {"value": value, "low": low, "high": high}
    assert str(parts.verdict(rate)) == verdict  # type: ignore[attr-defined]
    assert str(parts.opening(rate, "the policy", "the base")) == opening  # type: ignore[attr-defined]
    assert f'class="bar {verdict}"' in str(parts.bar(rate))  # type: ignore[attr-defined]
