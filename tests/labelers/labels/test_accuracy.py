"""The accuracy table: which pairs count, both conventions side by side, nothing scored twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.material import rendered_pairs, write_pairs

from infra.base.errors import UserError
from infra.world.oracle import Oracle
from infra.world.rater import bad_rows
from labelers.labels import accuracy, preference_accuracy
from labelers.scoring import scoring_pass
from pipelines.engine.jobs import Job


@pytest.fixture
def config(tmp_path: Path) -> accuracy.AccuracyConfig:
    rows = rendered_pairs(48, seed=3)
    source = write_pairs(tmp_path / "raw", [*rows, *bad_rows(rows)])
    speed = scoring_pass.SpeedConfig(batch_size=8, rows_per_file=16)
    output, table = str(tmp_path / "accuracy"), str(tmp_path / "table.json")
    names = ("oracle", "fidelity")
    return accuracy.AccuracyConfig(scorers=names, source=str(source), output=output, json=table, speed=speed)


def test_every_pair_with_a_label_and_two_images_counts(
    config: accuracy.AccuracyConfig, noted_jobs: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    accuracy.main(config)
    oracle, fidelity = json.loads(Path(str(config.json)).read_text())["rows"]
    # 48 pairs, every eighth tied by people, and of the six bad rows one whose second label contradicts; of the others
    # two have no usable image, and the rest no usable caption or label.
    assert (oracle["pairs"], oracle["human_ties"], oracle["refused"]) == (43, 6, 2)
    assert oracle["accuracy"] >= 42 / 43  # the renders show the caption or do not; one label contradicts
    assert oracle["low"] <= oracle["accuracy"] <= oracle["high"]
    assert fidelity["accuracy"] < 0.9  # it does not read captions
    assert "fidelity" in capsys.readouterr().out
    accuracy.main(config)
    assert "already finished" in capsys.readouterr().out
    assert len(noted_jobs) == 1
    with pytest.raises(UserError, match=r"begun with other settings \(scorer fidelity was '\w+', now None\)"):
        accuracy.main(replace(config, scorers=("oracle",)))


@pytest.mark.slow
def test_the_threshold_comes_from_the_validation_pairs(
    config: accuracy.AccuracyConfig, noted_jobs: list[Job], tmp_path: Path
) -> None:
    other = write_pairs(tmp_path / "validation", rendered_pairs(40, seed=9))
    accuracy.main(replace(config, validation_source=str(other)))
    assert len(noted_jobs) == 2
    assert json.loads(Path(str(config.json)).read_text())["rows"][0]["tuned_on"] == "validation"
    with pytest.raises(UserError, match="a threshold is tuned on others"):
        accuracy.main(replace(config, validation_source=config.source))


@pytest.mark.parametrize(
    ("source", "split", "read"),
    [(None, "tuning", ("pairs", "tuning")), ("others", None, ("others", "test")), ("others", "x", ("others", "x"))],
)
def test_validation_pairs_have_a_source_or_a_split_of_their_own(
    source: str | None, split: str | None, read: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def read_labelled(*place: str) -> Any:
        asked.append((place[0], place[1]))
        if len(asked) == 2:
            raise UserError("enough was read")
        return None

    monkeypatch.setattr(accuracy, "read_labelled", read_labelled)
    monkeypatch.setattr(accuracy.scorers, "is_toy", lambda *_: False)
    given = accuracy.AccuracyConfig(scorers=("oracle",), source="pairs", split="test", output=str(tmp_path))
    with pytest.raises(UserError, match="enough was read"):
        accuracy.main(replace(given, validation_source=source, validation_split=split))
    assert asked == [("pairs", "test"), read]


def judged_pairs(seed: int) -> accuracy.Judged:
    rng = np.random.default_rng(seed)
    margin = rng.normal(0, 0.2, 400)
    human = (rng.random(400) < 1 / (1 + np.exp(-margin / 0.05))).astype(float)
    human[np.abs(margin) < 0.02] = 0.5
    return accuracy.Judged(margin=margin, human=human, prompts=rng.integers(-50, 50, 400), refused=0)


def test_without_validation_pairs_each_half_of_the_prompts_serves_the_other() -> None:
    test, scorer = judged_pairs(0), Oracle()
    told = accuracy.row("one", scorer, test, None)
    even = test.prompts % 2 == 0
    for rows, other, place in ((even, ~even, 0), (~even, even, 1)):
        threshold, temperature = told["thresholds"][place], told["temperatures"][place]
        assert threshold == preference_accuracy.tune_threshold(test.margin[other], test.human[other], temperature)
        points = preference_accuracy.tie_points(test.margin[rows], test.human[rows], temperature, threshold)
        assert 0.5 < points.mean() < 1
    assert told["temperatures"][0] != told["temperatures"][1]


def test_a_scorers_own_temperature_is_taken() -> None:
    class Scaled:
        fingerprint, temperature, score = "f", 0.05, Oracle.score

    told = accuracy.row("one", Scaled(), judged_pairs(0), judged_pairs(1))
    assert (told["temperatures"], len(told["thresholds"])) == ([0.05], 1)


def test_where_no_temperature_fits_there_is_no_second_figure() -> None:
    test = judged_pairs(0)
    told = accuracy.row("one", Oracle(), replace(test, margin=-test.margin), None)
    assert told["accuracy"] < 0.5
    assert told["with_ties"] is None
    assert "no temperature fits" in accuracy.table([told])
