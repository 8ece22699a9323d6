"""Wins, ties and losses on hand-counted scores; edits of other start images, or none, are not compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.judging_material import Green, Red, name_scorers, score_folders, write_images

from infra.base.errors import UserError
from pipelines.experiments.sdedit import main, outcomes
from pipelines.experiments.sdedit_config import SdeditConfig

POLICY, BASE = np.array([0.9, 0.5, 0.2, 0.4]), np.array([0.1, 0.5, 0.3, 0.35])


def counts(counted: dict[str, Any]) -> tuple[int, int, int]:
    return tuple(counted[name]["count"] for name in ("win", "draw", "loss"))


def test_outcomes_are_counted_within_the_margin() -> None:
    assert counts(outcomes(POLICY, BASE, 0.0)) == (2, 1, 1)  # by 0.8 and 0.05; equal; by 0.1
    assert counts(outcomes(POLICY, BASE, 0.06)) == (1, 2, 1)
    assert counts(outcomes(POLICY, BASE, 1.0)) == (0, 4, 0)
    assert counts(outcomes(BASE, POLICY, 0.0)) == (1, 1, 2)


def test_shares_have_wilson_s_interval() -> None:
    counted = outcomes(POLICY, BASE, 0.0)
    # z = 1.96, p = 1/4: centre (p + z²/8)/(1 + z²/4) = 0.3725, half z/(1 + z²/4)·√(p(1-p)/4 + z²/64) = 0.3269
    assert [counted["loss"][name] for name in ("value", "low", "high")] == pytest.approx(
        [0.25, 0.0456, 0.6994], abs=1e-4
    )
    assert counted["win_rate"]["value"] == (2 + 0.5) / 4
    assert counted["win_rate"]["n"] == 4


def test_unjudged_edits_are_no_ties() -> None:
    with pytest.raises(ValueError, match="finite"):
        outcomes(np.array([np.nan]), np.array([0.0]), 1.0)


@pytest.fixture
def edits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SdeditConfig:
    name_scorers(monkeypatch)
    edited = {"strength": 0.6, "init_images": "s"}
    red = {"base": (10, 20, 30), "policy": (12, 20, 9)}
    folders = {
        name: write_images(tmp_path / name, {c: [(r, 0, 0)] for c, r in zip("abc", reds, strict=True)}, **edited)
        for name, reds in red.items()
    }
    score_folders(*folders.values())
    return SdeditConfig(
        base=folders["base"], policy=folders["policy"], scorer="red", output=str(tmp_path / "sdedit.json")
    )


def test_two_scored_folders_are_compared(edits: SdeditConfig, capsys: pytest.CaptureFixture[str]) -> None:
    main(edits)
    counted = json.loads(Path(edits.output).read_text())
    assert counts(counted["outcomes"]) == (1, 1, 1)
    assert (counted["strength"], counted["config"]["scorer"]) == (0.6, "red")
    assert "win 1 of 3: 0.333 (0.061 to 0.792)" in capsys.readouterr().out
    main(replace(edits, tie_margin=2.0))
    assert counts(json.loads(Path(edits.output).read_text())["outcomes"]) == (0, 2, 1)


def test_what_can_not_be_compared_is_refused(edits: SdeditConfig, tmp_path: Path) -> None:
    drawn = {c: [(1, 0, 0)] for c in "abc"}
    plain = write_images(tmp_path / "plain", drawn)
    other = write_images(tmp_path / "other", drawn, strength=0.6, init_images="t")
    score_folders(plain, other)
    for wrong, told in (
        (replace(edits, policy=plain), r"/plain: not drawn from start images; draw with generate\.py --init"),
        (replace(edits, policy=other), "were drawn with different init_images"),
        (replace(edits, scorer="green"), "--scorer green: has not scored .*/base"),
        (replace(edits, tie_margin=-1.0), "--tie-margin -1.0: must be at least 0"),
    ):
        with pytest.raises(UserError, match=told):
            main(wrong)


def test_scores_of_another_version_of_the_scorer_are_refused(
    edits: SdeditConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_folders(edits.base, edits.policy, names=("green",))
    monkeypatch.setattr(Green, "fingerprint", "the second")
    score_folders(edits.policy, names=("green",))
    main(edits)  # by red, which scored both alike
    monkeypatch.setattr(Red, "fingerprint", "the second")
    score_folders(edits.policy)
    with pytest.raises(UserError, match=r"/policy and .*/base were scored by different versions of red; run score\.py"):
        main(edits)
