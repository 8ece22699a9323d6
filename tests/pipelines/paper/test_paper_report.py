"""The report on a made folder: its keys, its answers, what sharing saved, its commands, and its page."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import browser, paper_folder
from support.pages import EVIL, Page

from pipelines.paper import paper_report
from pipelines.paper.paper_numbers import NUMBERS
from pipelines.paper.paper_page import TEXTS
from pipelines.paper.paper_run import DPO, read_run

pytestmark = pytest.mark.slow

KEYS = [
    "beta_ablation",
    "sft",
    "in_distribution",
    "feedback",
    "implicit_reward",
    "rejection_sampling",
    "sdedit",
    "stability",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with paper_folder.written(tmp_path_factory.mktemp("implicit-weaker-sdedit")) as run:
        paper_report.main(paper_report.PaperReportConfig(run))
        yield run


@pytest.fixture(scope="module")
def told(folder: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(Path(folder, "report.json").read_text(), parse_constant=pytest.fail)
    return report


@pytest.fixture(scope="module")
def html(folder: str) -> str:
    return Path(folder, "report.html").read_text()


def test_every_experiment_has_its_parts(told: dict[str, Any]) -> None:
    assert told["schema_version"] == 1
    assert list(told["experiments"]) == KEYS == list(NUMBERS) == list(TEXTS)
    for experiment in told["experiments"].values():
        assert {"hypotheses", "figures", "table", "paper", "commands", "seeds"} == set(experiment)
        assert experiment["seeds"] == [0, 1]
        for found in experiment["hypotheses"].values():
            assert set(found) == {"claim", "answer", "sentence", "parts", "labelled", "independent"}
            assert found["answer"] in ("yes", "no", "undecided")


def test_answers_follow_from_the_made_scores(told: dict[str, Any]) -> None:
    answers = {
        name: found["answer"] for one in told["experiments"].values() for name, found in one["hypotheses"].items()
    }
    # The implicit reward is right on all of seven held-out pairs, and so are the scorers that read red.
    assert (answers["above_chance"], answers["above_every_scorer"]) == ("yes", "undecided")
    assert answers["edits_preferred"] == "yes"  # all of six prompts by both seeds
    assert answers["beyond_null"] == "undecided"  # six captions
    assert told["answers"] == {kind: list(answers.values()).count(kind) for kind in ("yes", "no", "undecided")}
    assert told["headline"].startswith("Diffusion-DPO wins 87.5 % (")
    assert told["win_rate"]["per_seed"] == [pytest.approx(11 / 12), pytest.approx(10 / 12)]


def test_stability_is_answered_by_the_judge_that_never_labelled(told: dict[str, Any]) -> None:
    for name, experiment in told["experiments"].items():
        for found in experiment["hypotheses"].values():
            first = "independent" if name == "stability" else "labelled"
            assert found["answer"] == found[first]
            if name == "stability":
                assert f"{found['answer'].capitalize()}: by fidelity, which labelled nothing, " in found["sentence"]
                assert found["parts"][0]["judge"] == "fidelity"


def test_boxes_and_matrix_hold_the_known_figures(told: dict[str, Any]) -> None:
    boxes = told["experiments"]["in_distribution"]["figures"]["boxes"]["oracle"]
    assert boxes["base"]["median"] == 122.5
    assert boxes["winners, weaker pairs"]["median"] == pytest.approx(33, abs=0.5)
    assert boxes["policy, own pairs"]["n"] == 12  # both seeds
    matrix = told["experiments"]["feedback"]["figures"]["matrix"]
    assert [judge for judge, cell in matrix["human"].items() if cell["labelled"]] == ["oracle"]
    assert [judge for judge, cell in matrix["clip"].items() if cell["labelled"]] == ["clip"]
    survival = told["experiments"]["rejection_sampling"]["figures"]["oracle"]["survival"]
    assert (survival[0], survival[1], survival[2], survival[99]) == (
        1.0,
        pytest.approx(2 / 3),
        pytest.approx(1 / 3),
        survival[2],
    )


def test_sharing_counts_what_was_not_done_again(told: dict[str, Any], folder: str) -> None:
    shared = told["sharing"]
    assert shared["store"][f"{folder}/store"] == {"seconds": 7.0, "trials": 46, "saved_seconds": 7.0 * 45}
    assert shared["store"][f"{folder}/weaker_store"] == {"seconds": 5.0, "trials": 2, "saved_seconds": 5.0}
    assert shared["store_saved_seconds"] == 7.0 * 45 + 5.0
    errors = shared["reference"]
    assert errors[f"{folder}/store/reference/seed-0"] == {"seconds": 4.0, "trials": 11, "saved_seconds": 40.0}
    assert errors[f"{folder}/store/reference/seed-1"]["saved_seconds"] is None  # no step of this run made it
    assert (shared["reference_saved_seconds"], told["seconds"]) == (40.0, 137.0)


def test_commands_rerun_an_experiment_from_the_start(told: dict[str, Any], folder: str) -> None:
    scripts = {name: [shlex.split(line)[1] for line in one["commands"]] for name, one in told["experiments"].items()}
    for lines in scripts.values():
        assert lines[0] == "pipelines/generate.py"
        assert lines[-1] == "pipelines/paper_report.py"
        assert "pipelines/sweep.py" not in lines
    assert scripts["sft"].count("training/train_dpo.py") == 4  # two trials, two seeds
    assert scripts["beta_ablation"].count("training/train_dpo.py") == 14
    assert scripts["stability"].count("training/train_dpo.py") == 24  # four methods, three rates, two seeds
    assert "labelers/relabel.py" in scripts["feedback"]
    assert "labelers/relabel.py" not in scripts["sft"]
    assert any("weaker_raw" in line for line in told["experiments"]["in_distribution"]["commands"])
    rejection = scripts["rejection_sampling"]
    assert rejection.index("pipelines/rejection_sampling.py") > rejection.index("training/train_dpo.py")
    assert (
        f"python pipelines/generate.py --model base-model --output {folder}/sweep/base/images"
        in (told["experiments"]["sft"]["commands"])
    )


def test_hashes_stand_beside_the_figures(told: dict[str, Any], folder: str) -> None:
    config = told["config"]
    assert config["stores"]["store"]["content_hash"] == read_run(folder).stores["store"].content_hash
    assert set(config["stores"]["store"]["labels"]) == {"human", "pickscore", "hpsv2", "clip", "aesthetics"}
    assert config["judges"]["oracle"] == "the first"
    assert len(config["best_step"]) == 48  # 24 trials, two seeds


def test_the_page_escapes_and_loads_nothing(html: str) -> None:
    page = Page(html)
    assert "script" in page.tags  # the viewer's
    assert html.count("<script>") == 1
    assert EVIL not in html
    assert "&lt;script&gt;alert(" in html
    assert not [value for value in page.loaded if not value.startswith(("data:image/", "#"))]
    assert {f"#{name}" for name in (*KEYS, "images")} <= set(page.loaded)  # beside those within a chart
    assert all(f'id="{name}"' in html for name in (*KEYS, "images"))


def test_the_page_shows_every_claim_and_keeps_peoples_figures_apart(html: str, told: dict[str, Any]) -> None:
    for experiment in told["experiments"].values():
        for found in experiment["hypotheses"].values():
            assert html.count(f"<b>{found['claim']}</b>") == 1
    assert html.count("<svg") == 10  # two of beta, three of Fig. 7, one each of SFT, Tab. 2, S8, edits and stability
    assert html.count("The paper, SD1.5 and SDXL: another quantity") == 6  # the paper's text has no figure of S8
    assert '<td>70.0\u00a0%</td><td><span class="chip">people</span></td>' in html
    assert "policy of seed 0 (β 500, human labels)" in html
    assert DPO in told["config"]["train"]


@pytest.mark.skipif(not browser.CHROMIUM, reason="no chromium here")
@pytest.mark.slow
def test_nothing_is_cut_off_on_a_desk_a_phone_and_paper(html: str, folder: str, tmp_path: Path) -> None:
    shown = "[...document.querySelectorAll('#viewer figure')].filter(f => f.offsetParent).length"
    too_wide = (
        "[...document.querySelectorAll('main *')]"
        ".filter(found => !found.closest('.scroll, pre, svg') && found.offsetParent)"
        ".filter(found => found.getBoundingClientRect().right > document.documentElement.clientWidth + 1)"
        ".map(found => found.outerHTML.slice(0, 90))"
    )
    shares = "[...document.querySelectorAll('.theirs td:first-child')].map(cell => cell.clientWidth / innerWidth)"

    async def look() -> None:
        async with browser.open_page(tmp_path / "profile") as page:
            await page.open(f"file://{folder}/report.html")
            for width, media in ((1280, ""), (360, ""), (680, "print")):  # 680: A4 less its margins
                await page.send("Emulation.setEmulatedMedia", media=media)
                await page.resize(width, 800)
                wide = await page.evaluate(too_wide)
                assert not wide, (width, media, wide)
                share = min(await page.evaluate(shares))
                assert share > (0.25 if width < 1000 else 0.1), (width, media, share)  # words, not single letters
            assert await page.evaluate(shown) == html.count('<div class="two">')  # in print, the whole list
            assert not page.errors

    asyncio.run(look())
