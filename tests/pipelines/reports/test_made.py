"""What a page says of its own making, its verdict and its figures' line breaks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.base import files
from pipelines.reports import made
from pipelines.reports.report_page import template, unbroken
from training.checkpoints.run_folder import STEPS


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(42.4, "42 s"), (89.0, "89 s"), (420.0, "7 min"), (3600.0, "1 h 00 min"), (7500.0, "2 h 05 min")],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert made.duration(seconds) == text


def test_a_command_leaves_out_flags_without_a_value() -> None:
    flags = {"base": "a b", "policies": ("x", "y"), "control": None}
    assert made.command_line("pipelines/report.py", flags) == "python pipelines/report.py --base 'a b' --policies x y"


def test_only_known_durations_are_shown() -> None:
    told = made.describe("python x.py", {"training": 120.0, "drawing": None})
    assert told.durations == {"training": "2 min"}
    assert {"python", "torch", "diffusion-dpo"} <= set(told.versions)


def test_training_takes_the_sum_of_its_steps(tmp_path: Path) -> None:
    path = tmp_path / STEPS
    path.write_text("".join(json.dumps({"step": step, "seconds": 1.5}) + "\n" for step in (1, 2, 3)))
    assert made.training_seconds(str(tmp_path)) == 4.5
    path.write_text(json.dumps({"step": 1}) + "\n")  # a run from before steps had their seconds
    assert made.training_seconds(str(tmp_path)) is None


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
    for name in ("clip", "oracle"):
        files.write_json(str(tmp_path / "scores" / name / "manifest.json"), manifest)
    assert made.judge_titles(str(tmp_path), ["clip", "oracle"]) == {"clip": title, "oracle": "oracle"}


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
    parts = template("page_parts.html.jinja").make_module()
    rate = {"value": value, "low": low, "high": high}
    assert str(parts.verdict(rate)) == verdict  # type: ignore[attr-defined]
    assert str(parts.opening(rate, "the policy", "the base")) == opening  # type: ignore[attr-defined]
    assert f'class="bar {verdict}"' in str(parts.bar(rate))  # type: ignore[attr-defined]


def test_figures_do_not_break_over_lines() -> None:
    assert unbroken("wins 62.5 % (21.9 to 90.8) of it") == "wins 62.5\u00a0% (21.9\u00a0to\u00a090.8) of it"
    assert unbroken("+1.0 points (-2.0 to +4.0), next to 3") == "+1.0 points (-2.0\u00a0to\u00a0+4.0), next to 3"
