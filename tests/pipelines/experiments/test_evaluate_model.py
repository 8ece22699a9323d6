"""Evaluating a model: what is drawn and scored, resume, refusals, the report's keys and its page in a browser.

Drawing is stood in for by one-coloured images, but for one run on the session's cluster; the rest is the real thing.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import browser, chat_server, judging_material
from support.judging_material import write_images
from support.material import MODEL
from support.pages import EVIL, Page
from support.trained_models import lora_result

from infra.base import cli, files
from infra.base.errors import UserError
from labelers.scoring.endpoint_config import EndpointConfig
from pipelines.drawing import generate, generate_config, image_sets
from pipelines.drawing.prompts import read_prompts
from pipelines.experiments.evaluate_config import NOT_CHOSEN, PRESETS, PUBLISHED, EvaluateConfig
from pipelines.experiments.evaluate_model import command_of, main
from pipelines.judging import score, score_files
from pipelines.judging.win_rate import wilson
from pipelines.latents.safety_config import SafetyConfig

POLICY_REDS = (50, 60, 5, 40)  # against 10 20 30 40: two wins, a loss, a tie


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[generate.GenerateConfig]:
    """Put one-coloured images in the generator's place; yields what it was asked to draw, finished folders left out."""
    judging_material.name_scorers(monkeypatch)
    asked: list[generate.GenerateConfig] = []

    def draw(config: generate.GenerateConfig) -> None:
        if Path(config.output, image_sets.DONE).exists():
            return
        asked.append(config)
        reds = (10, 20, 30, 40) if Path(config.output).name == "base" else POLICY_REDS
        captions = read_prompts(config.prompts)[: config.limit]
        shown = {
            caption: [(reds[n % 4], k, 0) for k in range(config.images_per_prompt)]
            for n, caption in enumerate(captions)
        }
        write_images(Path(config.output), shown, model=config.model, seed=config.seed)

    monkeypatch.setattr(generate, "main", draw)
    return asked


@pytest.fixture
def config(tmp_path: Path) -> EvaluateConfig:
    rows = [{"prompt": f"{EVIL} {n}", "Category": f"{EVIL} {'even' if n % 2 == 0 else 'odd'}"} for n in range(4)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return EvaluateConfig(
        model=str(shutil.copytree(MODEL, tmp_path / "tuned")),
        prompts=str(tmp_path / "p.jsonl"),
        output=str(tmp_path / "out"),
        scorers=("red", "green"),
    )


def made(config: EvaluateConfig) -> tuple[dict[str, Any], str]:
    main(config)
    told = json.loads((Path(config.output) / "report.json").read_text(), parse_constant=pytest.fail)
    page = (Path(config.output) / "report.html").read_text()
    return told, re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "then", page)  # two runs may lie in two minutes


@pytest.mark.usefixtures("drawn")
def test_figures_and_keys(config: EvaluateConfig) -> None:
    told, _ = made(config)
    assert list(told) == [
        "schema_version", "command", "judge", "win_rate", "median", "breakdown", "sets", "safety", "origin", "prompts",
        "models", "scorers", "config",
    ]  # fmt: skip
    assert (told["schema_version"], told["judge"]) == (1, "red")
    low, high = wilson(2.5, 4)
    rate = {"value": 0.625, "low": low, "high": high, "n": 4, "prompts": 4, "interval": "Wilson"}
    assert told["win_rate"]["red"] == rate
    assert told["win_rate"]["green"]["value"] == 0.5  # all tied
    assert told["median"]["red"] == {"base": 25.0, "policy": 45.0}
    groups = told["breakdown"]["Category"]
    assert {group[-4:].strip(): cell["red"]["value"] for group, cell in groups.items()} == {"even": 0.5, "odd": 0.75}
    assert told["origin"]["scorers"]["red"] == {"labelled": None, "chose_checkpoint": None}
    assert (told["prompts"]["rows"], told["prompts"]["used"], len(told["prompts"]["sha256"])) == (4, 4, 64)
    assert told["scorers"]["red"] == {"weights": None, "fingerprint": "the first"}


@pytest.mark.usefixtures("drawn")
def test_a_judge_behind_an_address_compares_the_images(config: EvaluateConfig, tmp_path: Path) -> None:
    with chat_server.serving() as server:
        asking = EndpointConfig(answers=str(tmp_path / "answers"), request_tries=1)
        alone = replace(config, scorers=(server.address,), endpoint=asking)
        server.misbehave = lambda number, _body: (500, {}, b"") if number == 3 else None
        told, page = made(alone)
        assert told["scorers"]["Red-VL"]["unanswered"] == 1  # a tie, until the same command gets an answer
        assert told["scorers"]["Red-VL"]["without_verdict"] == 0
        assert "so do 1 pairs that have no answer yet" in page
        told, page = made(alone)
        assert len(server.asked) == 7 + 1  # both orders of three pairs, the one question of the tie; one of them twice
        assert told["win_rate"]["Red-VL"]["value"] == 0.625  # two wins, a loss, a tie
        assert (told["median"], told["sets"]) == ({}, {})
        kinds_of_ties = ("order_disagreements", "without_verdict", "unanswered")
        assert [told["scorers"]["Red-VL"][kind] for kind in kinds_of_ties] == [0, 0, 0]
        assert "compares images and scores none by itself" in page
        both, _ = made(replace(alone, scorers=("green", server.address)))
        assert (both["judge"], both["win_rate"]["Red-VL"]["value"], list(both["median"])) == ("green", 0.625, ["green"])
        server.answer = lambda _body: "Lovely, both."
        silent = replace(asking, answers=str(tmp_path / "others"))
        with pytest.raises(UserError, match="no verdict on any of 4 pairs; the commonest reason is: no verdict in the"):
            main(replace(alone, endpoint=silent))
        with pytest.raises(UserError, match=r"--true-images .* no judge here looks at single images"):
            main(replace(alone, true_images=str(tmp_path / "out/base")))


def test_both_models_draw_the_same_prompts_with_the_same_flags(
    drawn: list[generate.GenerateConfig], config: EvaluateConfig
) -> None:
    made(replace(config, limit=3, draw=replace(config.draw, seed=4, images_per_prompt=2)))
    base, policy = drawn
    assert (base.model, policy.model) == ("infra/world/model", config.model)
    assert read_prompts(base.prompts) == [f"{EVIL} {n}" for n in range(3)]
    assert replace(base, model="", output="") == replace(policy, model="", output="")
    assert (base.seed, base.images_per_prompt) == (4, 2)


def test_a_second_run_draws_nothing_and_another_scorer_only_scores(
    drawn: list[generate.GenerateConfig], config: EvaluateConfig
) -> None:
    first, page = made(replace(config, scorers=("red",)))
    assert len(drawn) == 2
    judging_material.TOLD.clear()
    assert made(replace(config, scorers=("red",))) == (first, page)
    assert not judging_material.TOLD
    told, _ = made(config)
    assert set(judging_material.TOLD) == {"Green 4"}
    assert len(drawn) == 2
    assert told["win_rate"]["red"] == first["win_rate"]["red"]


def test_evaluations_may_share_the_bases_images(
    drawn: list[generate.GenerateConfig], config: EvaluateConfig, tmp_path: Path
) -> None:
    shared = replace(config, base_images=str(tmp_path / "shared" / "base"))
    made(shared)
    made(replace(shared, output=str(tmp_path / "other")))
    assert [Path(one.output).name for one in drawn] == ["base", "policy", "policy"]


@pytest.mark.usefixtures("drawn")
def test_the_command_has_every_setting(config: EvaluateConfig) -> None:
    changed = replace(
        config, weights=("red=world",), limit=3, category_column=("Category",), feature_model=str(MODEL),
        draw=replace(config.draw, seed=3, max_tokens=None, guidance_scale=2.5, images_per_prompt=2),
        endpoint=replace(config.endpoint, answers="/answers"),
    )  # fmt: skip
    told, _ = made(changed)
    start, script, *flags = shlex.split(told["command"])
    assert (start, script) == ("python", "pipelines/evaluate_model.py")
    again = cli.parse(EvaluateConfig, {}, flags)
    assert cli.as_saved(again) == told["config"]
    assert again.draw.seed == 3


def test_a_presets_command_needs_no_preset() -> None:
    own = replace(PRESETS["sdxl"].endpoint, answers="/answers")
    preset = replace(
        PRESETS["sdxl"], model="someone/tuned", prompts="p.txt", revision="abc", output="/out", endpoint=own
    )
    found = cli.parse(EvaluateConfig, {}, shlex.split(command_of(preset))[2:])
    assert found == preset
    assert (found.draw.guidance_scale, found.scorers[0], found.weights) == (5.0, "pickscore", ("published",))


def test_adapters_make_a_policy_of_the_base(
    drawn: list[generate.GenerateConfig], config: EvaluateConfig, tmp_path: Path
) -> None:
    lora, _ = lora_result(tmp_path / "lora")
    told, page = made(replace(config, model=None, lora=str(lora)))
    assert [(one.model, one.lora) for one in drawn] == [("infra/world/model", None), ("infra/world/model", str(lora))]
    assert told["config"]["model"] == "infra/world/model"
    assert "its facts name no store" in page


@pytest.mark.usefixtures("drawn")
def test_bad_input_is_refused_before_anything_is_drawn(config: EvaluateConfig, bucket: str, tmp_path: Path) -> None:
    assert bucket != "s3://not-there"  # whose server is asked
    for changes, said in (
        ({"model": None}, "--model: give the policy, or --lora"),
        ({"scorers": ()}, "--scorers: give at least one"),
        ({"scorers": ("none", "red")}, "scorer 'none': unknown"),
        ({"scorers": ("nobody",)}, "scorer 'nobody': unknown"),
        ({"scorers": ("oracle",)}, "is not a caption of the embedded world"),
        ({"base": str(tmp_path)}, "--base .* has no model_index.json"),
        ({"base_lora": str(tmp_path)}, "--base-lora .* is no LoRA result"),
        ({"limit": 0}, "--limit 0: must be at least 1"),
        ({"scoring_batch_size": 0}, "--scoring-batch-size 0: must be at least 1"),
        ({"true_images": str(tmp_path)}, "no finished images here"),
        ({"feature_model": str(tmp_path)}, "--feature-model .* has no model_index.json"),
        ({"draw": replace(NOT_CHOSEN, refiner=str(MODEL))}, "a refiner is a StableDiffusionXL"),
        ({"draw": replace(NOT_CHOSEN, sampling_steps=0)}, "--sampling-steps 0: must be at least 1"),
        ({"output": "s3://not-there/e"}, "--output s3://not-there/e: there is no bucket not-there"),
    ):
        with pytest.raises(UserError, match=said):
            main(replace(config, **changes))  # type: ignore[arg-type]
    assert not Path(config.output).exists()


@pytest.mark.usefixtures("drawn")
def test_a_refused_command_leaves_the_record_of_the_one_before(config: EvaluateConfig, tmp_path: Path) -> None:
    made(config)
    before = {path.name: path.read_bytes() for path in Path(config.output).iterdir() if path.is_file()}
    (tmp_path / "others.txt").write_text("another\n")
    with pytest.raises(
        UserError, match=r"begun with other settings \(prompts was '\d+ captions .*', now '\d+ captions"
    ):
        main(replace(config, prompts=str(tmp_path / "others.txt")))
    after = {path.name: path.read_bytes() for path in Path(config.output).iterdir() if path.is_file()}
    assert after == before
    assert {"config.json", "prompts.jsonl", "report.json", "report.html"} <= set(after)


@pytest.mark.usefixtures("drawn")
def test_images_that_are_not_the_prompts_are_refused(config: EvaluateConfig) -> None:
    write_images(Path(config.output) / "base", {"another": [(1, 2, 3)]}, model="infra/world/model")
    with pytest.raises(UserError, match="out/base: 1 scored images are not the 4 of the prompts"):
        main(config)


@pytest.mark.usefixtures("drawn")
def test_the_page_says_the_result_and_loads_nothing(config: EvaluateConfig) -> None:
    _, html = made(config)
    heading = Page(re.findall(r"<h1.*?</h1>", html, re.DOTALL)[0]).text.replace("\u00a0", " ")
    assert heading.startswith("No difference shown: ")  # the interval holds 50 %
    assert heading[21:] == "the policy wins 62.5 % of 4 prompts against its base (95 % interval 21.9 to 90.8 %)."
    page = Page(html)
    assert html.count("<script") == 1  # ours
    assert EVIL in page.text
    assert page.loaded
    assert all(value.startswith("data:image/") for value in page.loaded)
    assert not re.search(r"@import|url\(", html)
    assert "Whether it also labelled the policy’s training data is unknown" in page.text
    assert "pipelines/evaluate_model.py" in page.text


@pytest.mark.usefixtures("drawn")
def test_several_images_of_a_prompt_are_all_counted(config: EvaluateConfig) -> None:
    told, html = made(replace(config, draw=replace(config.draw, images_per_prompt=3)))
    won = told["win_rate"]["red"]
    assert (won["value"], won["n"], won["prompts"], won["interval"]) == (0.625, 12, 4, "bootstrap over prompts")
    assert "of 12 images of 4 prompts" in Page(html).text
    assert "fewer than 20 prompts is too narrow" in Page(html).text
    assert told["sets"]["policy"]["diversity"] >= 0


@pytest.mark.usefixtures("drawn")
def test_without_a_judge_the_page_shows_the_images_side_by_side(config: EvaluateConfig) -> None:
    told, html = made(replace(config, scorers=("none",)))
    assert not judging_material.TOLD
    assert (told["judge"], told["win_rate"], told["scorers"]) == (None, {}, {})
    page = Page(html)
    assert "No judge was asked" in page.text
    assert EVIL in page.text
    assert len(page.loaded) == 2 * (4 + 2 + 2)  # pairs at random, and of the groups even and odd
    assert "✓" not in page.text
    assert "--scorers none" in told["command"]
    judged, _ = made(config)  # the same images, judged afterwards
    assert list(judged) == list(told)
    assert judged["win_rate"]["red"]["value"] == 0.625


@pytest.mark.skipif(not browser.CHROMIUM, reason="no chromium here")
@pytest.mark.usefixtures("drawn")
@pytest.mark.slow
def test_pairs_are_flipped_through_by_key_and_mouse(config: EvaluateConfig, tmp_path: Path) -> None:
    main(config)
    seen = "[...document.querySelectorAll('#viewer figure')].filter(f => f.offsetParent).map(f => f.innerText)"
    place = "document.querySelector('output').textContent"
    plain = tmp_path / "plain.html"  # what a browser without JavaScript shows
    plain.write_text(re.sub("<script>.*</script>", "", (Path(config.output) / "report.html").read_text(), flags=re.S))

    async def look() -> None:
        async with browser.open_page(tmp_path / "profile") as page:
            await page.open(f"file://{config.output}/report.html")
            assert len(await page.evaluate(seen)) == 1
            assert await page.evaluate(place) == "1 of 2"  # the two gains
            first = await page.evaluate(seen)
            await page.press("ArrowRight")
            assert await page.evaluate(place) == "2 of 2"
            assert await page.evaluate(seen) != first
            await page.evaluate("document.querySelector('.controls').scrollIntoView()")
            await page.click(".on")  # on to the one loss
            assert await page.evaluate(place) == "1 of 1"
            assert EVIL in (await page.evaluate(seen))[0]
            await page.press("ArrowLeft")
            await page.press("ArrowLeft")
            assert await page.evaluate(seen) == first
            titles = await page.evaluate("[...document.querySelectorAll('.controls option')].map(o => o.text)")
            assert titles[-1] == f"Category: {EVIL} odd"
            for width in (1280, 360):
                await page.resize(width, 800)
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            await page.send("Emulation.setEmulatedMedia", media="print")
            assert len(await page.evaluate(seen)) == 2 + 1 + 4 + 2 + 2  # the whole list
            assert not page.errors
            await page.send("Emulation.setEmulatedMedia", media="")
            await page.open(f"file://{plain}")
            assert len(await page.evaluate(seen)) == 2 + 1 + 4 + 2 + 2
            assert not await page.evaluate("document.querySelector('.controls').offsetParent")

    asyncio.run(look())


@pytest.mark.slow
def test_evaluate_draws_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora, _ = lora_result(tmp_path / "lora")
    (tmp_path / "p.csv").write_text(
        "prompt,style\na big red circle on a teal background,big\na small white ring on a black background,small\n"
    )
    flags = ["--lora", str(lora), "--prompts", f"{tmp_path}/p.csv", "--output", f"{tmp_path}/out"]
    cli.run(main, EvaluateConfig, PRESETS, [*flags, "--sampling-steps", "2", "--images-per-prompt", "2"])
    report = files.read_json(f"{tmp_path}/out/report.json")
    assert {name: won["n"] for name, won in report["win_rate"].items()} == {"oracle": 4, "fidelity": 4}
    assert list(report["breakdown"]["style"]) == ["big", "small"]
    assert report["models"]["base"]["fingerprints"] != report["models"]["policy"]["fingerprints"]

    # The base's folder is what generate.py and score.py make of these settings.
    drawing = generate.GenerateConfig(
        prompts=f"{tmp_path}/p.csv", output=f"{tmp_path}/out/base", images_per_prompt=2, sampling_steps=2
    )
    images = image_sets.read_images(drawing.output)
    assert images.num_rows == 4
    assert Image.open(io.BytesIO(images["image"][0].as_py())).size == (64, 64)
    generate.main(drawing)
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"other settings \(seed was 0, now 3\)"):
        generate.main(replace(drawing, seed=3))
    (tmp_path / "p.csv").write_text("prompt\na big red circle on a teal background\na small red ring on a pink one\n")
    with pytest.raises(UserError, match=r"other settings \(captions was "):
        generate.main(drawing)
    scores = score_files.read_scores(drawing.output)
    assert scores.num_rows == 4
    assert np.isfinite(scores["oracle"].to_numpy()).all()
    score.main(score.ScoreConfig(images=(drawing.output,)))
    assert "already scored" in capsys.readouterr().out


def test_the_presets_are_the_generators() -> None:
    assert set(PRESETS) == set(generate_config.PRESETS)
    seen: list[EvaluateConfig] = []
    given: Callable[..., None] = seen.append
    cli.run(given, EvaluateConfig, PRESETS, ["--preset", "sd15", "--model", "x", "--prompts", "p.txt"])
    assert (seen[0].base, seen[0].draw.sampling_steps) == ("stable-diffusion-v1-5/stable-diffusion-v1-5", 50)
    with pytest.raises(SystemExit):
        cli.run(given, EvaluateConfig, PRESETS, ["--preset", "sd15", "--model", "x"])
    assert seen[0].scorers == PUBLISHED


@pytest.mark.usefixtures("drawn")
def test_a_filter_flags_both_models_images(config: EvaluateConfig, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("script\n")  # in every caption
    told, html = made(replace(config, safety=SafetyConfig(str(tmp_path / "words.txt"))))
    assert told["safety"]["images"]["policy"]["reasons"] == {"prompt: word list, line 1": 4}
    assert told["safety"]["images"]["base"]["flagged"] == 4
    assert "4 of the 4 images of base" in html
    assert "blurred: prompt: word list, line 1" in html
    (tmp_path / "words.txt").write_text("")
    with pytest.raises(UserError, match="no word in it"):
        main(replace(config, safety=SafetyConfig(str(tmp_path / "words.txt"))))
