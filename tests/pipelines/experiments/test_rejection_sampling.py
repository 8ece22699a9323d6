"""Rejection sampling: N by hand, the null's known answers, the interval's coverage, and the waves of draws."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.judging_material import name_scorers, write_images

from infra.base import cli
from infra.base.errors import UserError
from pipelines.drawing import generate, image_sets
from pipelines.drawing.generate_config import GenerateConfig
from pipelines.drawing.prompts import read_prompts
from pipelines.experiments.rejection_config import RejectionConfig
from pipelines.experiments.rejection_sampling import RESULT, first_better, main, null_survival, summarise, waves


def test_the_first_better_draw_by_hand() -> None:
    base = np.array([[1.0, 3.0, 2.0], [2.0, 2.0, 2.0], [9.0, 0.0, 9.0], [1.0, 1.0, 2.1]])
    assert first_better(base, np.full(4, 2.0)).tolist() == [2, 0, 1, 3]  # a tie does not beat


def test_the_null_has_the_known_mean() -> None:
    # E[min(N, 100)] = 1 + 1/2 + ... + 1/100 = 5.19; half of the captions are beaten by the first draw.
    assert null_survival(100).sum() == pytest.approx(5.187, abs=5e-4)
    assert null_survival(100)[:3] == pytest.approx([1, 1 / 2, 1 / 3])


def test_a_policy_that_is_the_base_is_at_the_null() -> None:
    rng = np.random.default_rng(0)
    found = first_better(rng.random((4000, 100)), rng.random(4000))
    result = summarise(found, 100)
    assert result.mean == pytest.approx(result.null_mean, abs=0.6)  # its standard error is 0.2
    assert result.survival == pytest.approx(result.null_survival, abs=0.025)
    assert result.median in (1, 2)  # P(N = 1) is a half
    assert result.beyond_null == "undecided"


def test_summary_by_hand() -> None:
    # N = 1, 2, 4 and one that no draw won, capped at 8: mean 15 / 4, median 3.
    result = summarise(np.array([1, 2, 4, 0]), 8)
    assert (result.mean, result.median, result.censored, result.captions) == (3.75, 3.0, 1, 4)
    assert result.survival == [1.0, 0.75, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    assert sum(result.survival) == pytest.approx(result.mean)
    assert result.low < 3.75 < result.high


@pytest.mark.parametrize(("found", "verdict"), [([0] * 20, "yes"), ([1] * 20, "no"), ([1, 0] * 2, "undecided")])
def test_the_verdict(found: list[int], verdict: str) -> None:
    # The null's mean at a cap of 4 is 1 + 1/2 + 1/3 + 1/4 = 2.08.
    assert summarise(np.array(found), 4).beyond_null == verdict


@pytest.mark.slow
def test_the_interval_covers_at_its_rate() -> None:
    rng, expected = np.random.default_rng(0), float(null_survival(100).sum())
    inside = []
    for _ in range(100):
        result = summarise(first_better(rng.random((400, 100)), rng.random(400)), 100)
        inside.append(result.low <= expected <= result.high)
    assert 0.88 <= np.mean(inside) <= 1.0  # 0.95 less three standard errors of 0.022


@pytest.mark.parametrize(("cap", "sizes"), [(100, [4, 8, 16, 32, 40]), (4, [4]), (3, [3]), (5, [4, 1]), (1, [1])])
def test_waves_double_and_add_up(cap: int, sizes: list[int]) -> None:
    assert waves(cap) == sizes


Call = tuple[str, int, tuple[str, ...]]  # a folder that was drawn, its seed and its captions


@pytest.fixture
def drawn() -> list[Call]:
    return []


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: list[Call]) -> RejectionConfig:
    """The policy draws a red of 100 on every caption; the base 99, but 101 from its 2nd draw on of "one", its 6th of
    "two", its 99th of "none"."""
    name_scorers(monkeypatch)
    (tmp_path / "captions.txt").write_text("none\none\ntwo\none\n")

    def draw(config: generate.GenerateConfig) -> None:
        captions = read_prompts(config.prompts)
        if Path(config.output, image_sets.DONE).exists():
            return
        drawn.append((Path(config.output).name, config.seed, tuple(captions)))
        before = {"wave-1": 0, "wave-2": 4}.get(Path(config.output).name, 0)
        wins = {"one": 2, "two": 6, "none": 99}
        shown = {
            caption: [
                (100 if config.model == "policy" else 101 if before + k + 1 >= wins[caption] else 99, 0, 0)
                for k in range(config.images_per_prompt)
            ]
            for caption in captions
        }
        write_images(Path(config.output), shown, model=config.model)

    monkeypatch.setattr(generate, "main", draw)
    drawing = GenerateConfig(output="", model="policy", prompts=str(tmp_path / "captions.txt"), seed=7)
    return RejectionConfig(scorer="red", cap=10, output=str(tmp_path / "out"), draw=drawing)


def test_only_captions_that_are_not_beaten_are_drawn_again(config: RejectionConfig, drawn: list[Call]) -> None:
    main(config)
    told = json.loads(Path(config.output, RESULT).read_text())
    assert told["draws"] == {"none": 0, "one": 2, "two": 6}
    assert (told["result"]["mean"], told["result"]["censored"]) == (6.0, 1)  # (10 + 2 + 6) / 3
    assert drawn == [
        ("policy", 7, ("none", "one", "two")),
        ("wave-1", 8, ("none", "one", "two")),  # other seeds than the policy's, so that no start noise is shared
        ("wave-2", 9, ("none", "two")),
    ]
    main(config)
    assert len(drawn) == 3  # the same command again draws nothing
    again = ["--config", str(Path(config.output, "config.json"))]
    assert cli.parse(RejectionConfig, {}, again) == config


def test_what_makes_no_experiment_is_refused(config: RejectionConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--cap 0"):
        main(replace(config, cap=0))
    with pytest.raises(UserError, match="--limit -1: must be at least 1"):
        main(replace(config, draw=replace(config.draw, limit=-1)))
    with pytest.raises(UserError, match=r"--base /nowhere: there is no /nowhere"):
        main(replace(config, base="/nowhere"))
    assert not Path(config.output).exists()  # the policy has not drawn
    main(config)
    (tmp_path / "captions.txt").write_text("none\nanother\n")
    before = Path(config.output, "policy", "captions.jsonl").read_text()
    with pytest.raises(
        UserError,
        match=r"policy was begun with other settings \(captions was '\d+ captions .*', now '\d+ captions",
    ):
        main(config)
    assert Path(config.output, "policy", "captions.jsonl").read_text() == before
