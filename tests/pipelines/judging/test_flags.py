"""Flagged images: found by flag_images.py, shown blurred in reports and arena, their own bytes nowhere in them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support import judging_material
from support.arena_material import Client, serving
from support.browser import CHROMIUM, open_page
from support.judging_material import score_folders, write_images, write_run, write_store
from support.pages import Page
from support.safety_material import BLUE, GREEN, RED, RED_CONCEPT, write_checker

from infra.base import files
from infra.base.errors import UserError
from pipelines.arena_app.arena_pairs import read_sets
from pipelines.arena_app.arena_server import ArenaServer
from pipelines.drawing.image_flags import FILTER, FLAGS, blurred, flag_reasons, read_image_flags
from pipelines.drawing.image_sets import read_images
from pipelines.experiments.evaluate_config import EvaluateConfig
from pipelines.experiments.evaluate_model import command_of
from pipelines.judging import flag_images
from pipelines.judging.comparison import read_drawn
from pipelines.judging.flag_config import FlagConfig
from pipelines.latents.safety_config import SafetyConfig
from pipelines.reports import feedback_page, report

BASE = {"a dog": [BLUE], "a nude": [BLUE], "a cat": [GREEN]}
POLICY = {"a dog": [RED], "a nude": [GREEN], "a cat": [BLUE]}


@pytest.fixture(scope="module")
def checker(tmp_path_factory: pytest.TempPathFactory) -> SafetyConfig:
    return SafetyConfig("default", str(write_checker(tmp_path_factory.mktemp("checker"))))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return the base's and the policy's images, scored; of three pairs one is flagged by caption, one by image."""
    judging_material.name_scorers(monkeypatch)
    base, policy = (write_images(tmp_path / name, drawn) for name, drawn in (("base", BASE), ("policy", POLICY)))
    score_folders(base, policy, names=("red",))
    return base, policy


def flagged_captions(folder: str) -> dict[str, str]:
    captions = read_images(folder, columns=["caption"])
    named = dict(zip(captions["image_id"].to_pylist(), captions["caption"].to_pylist(), strict=True))
    return {named[image_id]: reason for image_id, reason in flag_reasons(folder).items()}


def test_images_are_flagged_once_and_again_by_another_filter(
    folders: tuple[str, str], checker: SafetyConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in Path(folders[1]).rglob("*.parquet")}
    flag_images.main(FlagConfig(folders, checker, batch_size=2))
    found = flagged_captions(folders[1])
    assert found["a dog"] == f"image: safety concept {RED_CONCEPT}"
    assert re.fullmatch(r"prompt: word list, line \d+", found["a nude"])
    assert set(flagged_captions(folders[0])) == {"a nude"}
    assert "2 of 3 images flagged" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in Path(folders[1]).rglob("*.parquet")}
    flag_images.main(FlagConfig(folders, checker, batch_size=2))
    assert capsys.readouterr().out.count("already flagged, nothing to do") == 2
    flag_images.main(FlagConfig(folders, SafetyConfig("default")))
    assert set(flagged_captions(folders[1])) == {"a nude"}
    assert not list(Path(folders[1]).glob(".work*"))


def test_bad_flags_are_refused(folders: tuple[str, str], tmp_path: Path) -> None:
    for config, told in (
        (FlagConfig(folders), "--prompt-blocklist and --safety-checker: give at least one"),
        (FlagConfig(folders, SafetyConfig("default"), batch_size=0), "--batch-size 0: must be at least 1"),
        (FlagConfig((str(tmp_path),), SafetyConfig("default")), "no finished images here"),
    ):
        with pytest.raises(UserError, match=told):
            flag_images.main(config)


def test_flags_of_other_images_are_refused_where_images_are_shown(folders: tuple[str, str]) -> None:
    assert read_image_flags(folders[0]) is None
    flag_images.main(FlagConfig(folders, SafetyConfig("default")))
    manifest = files.read_json(f"{folders[0]}/manifest.json")
    files.write_json(f"{folders[0]}/manifest.json", manifest | {"images": 4})
    with pytest.raises(UserError, match=r"flags\.json: of other images than those in .*; delete it and run"):
        read_image_flags(folders[0])


def test_lost_or_altered_flags_are_refused_where_images_are_shown(shown: tuple[str, str]) -> None:
    base, policy = shown
    path = Path(policy) / FLAGS
    whole = path.read_text()
    path.unlink()  # a reader would take the folder for one that no filter has checked, and blur nothing
    with pytest.raises(UserError, match=rf"{path}: missing, though filter\.json beside it says that a safety filter"):
        read_sets(shown)
    path.write_text(json.dumps(json.loads(whole) | {"flagged": {}}))
    with pytest.raises(UserError, match=rf"{path}: altered since the filter wrote it; delete it and run flag_images"):
        read_image_flags(policy)
    path.write_text(whole)
    (Path(policy) / FILTER).unlink()  # as beside the flags of earlier versions
    assert flag_reasons(policy)
    (Path(base) / FILTER).write_text("{")
    with pytest.raises(UserError, match=r"filter\.json: no whole JSON"):
        read_image_flags(base)


def test_a_blurred_image_has_no_detail_left() -> None:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    pixels = rng.integers(0, 256, (128, 256, 3), np.uint8)
    pixels[::2, ::2] = 0
    Image.fromarray(pixels).save(buffer, format="PNG")
    shown = Image.open(io.BytesIO(blurred(buffer.getvalue())))
    assert (shown.format, shown.size) == ("PNG", (256, 128))
    # 8 x 4 fields of 32 x 32 random pixels have nearly one mean; before, neighbours differed by up to 255.
    assert np.abs(np.diff(np.asarray(shown).astype(int), axis=1)).max() <= 3
    halves = np.zeros((64, 64, 3), np.uint8)
    halves[:, 32:] = 255
    buffer = io.BytesIO()
    Image.fromarray(halves).save(buffer, format="PNG")
    left, right = np.asarray(Image.open(io.BytesIO(blurred(buffer.getvalue()))))[32, [4, 60], 0]
    assert (left, right) == (0, 255)  # its colours are left


def one_per_caption(folder: str) -> dict[str, bytes]:
    table = read_images(folder, columns=["caption", "image"])
    return dict(zip(table["caption"].to_pylist(), table["image"].to_pylist(), strict=True))


def embedded(html: str) -> set[bytes]:
    """Return the pixels of every image in a page."""
    found = re.findall(r"data:image/(?:png|jpeg);base64,([A-Za-z0-9+/=]+)", html)
    return {np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))).tobytes() for one in found}


def textured(folder: Path, drawn: dict[str, list[tuple[int, int, int]]]) -> str:
    """Write images as write_images does, each with a dark comb of its own at the top, which a blur takes away."""
    path = write_images(folder, drawn)
    file = Path(path, "images", "part-0.parquet")
    table = pq.read_table(file)
    changed = []
    for number, content in enumerate(table["image"].to_pylist(), 3 if folder.name == "base" else 6):
        pixels = np.asarray(Image.open(io.BytesIO(content))).copy()
        pixels[:number, ::3] //= 2
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        changed.append(buffer.getvalue())
    column = table.schema.get_field_index("image")
    pq.write_table(table.set_column(column, "image", pa.array(changed, pa.binary())), file)
    return path


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checker: SafetyConfig) -> tuple[str, str]:
    """Return folders as `folders` does, flagged, and with details that a blur takes away."""
    judging_material.name_scorers(monkeypatch)
    base, policy = (textured(tmp_path / name, drawn) for name, drawn in (("base", BASE), ("policy", POLICY)))
    score_folders(base, policy, names=("red",))
    flag_images.main(FlagConfig((base, policy), checker))
    return base, policy


def check_page(html: str, base: str, policy: str) -> None:
    """Hold that a page embeds the blurred images of flagged ones alone, the others as they are, and says so."""
    pixels = embedded(html)
    for folder in (base, policy):
        flagged = flagged_captions(folder)
        for caption, content in one_per_caption(folder).items():
            own = np.asarray(Image.open(io.BytesIO(content))).tobytes()
            veiled = np.asarray(Image.open(io.BytesIO(blurred(content)))).tobytes()
            assert own != veiled
            assert (own in pixels, veiled in pixels) == (caption not in flagged, caption in flagged)
            assert caption not in flagged or base64.b64encode(content).decode() not in html
    text = Page(html).text
    assert "1 of the 3 images of base (prompt: word list, line" in text
    assert "2 of the 3 images of policy (" in text
    assert f"blurred: image: safety concept {RED_CONCEPT}" in text


def test_the_report_blurs_and_counts(shown: tuple[str, str], tmp_path: Path) -> None:
    base, policy = shown
    config = report.ReportConfig(
        base=base, policy=policy, train=write_run(tmp_path / "run"), store=write_store(tmp_path / "store"),
        output=str(tmp_path / "report"), judge="red",
    )  # fmt: skip
    report.main(config)
    html = (tmp_path / "report/report.html").read_text()
    check_page(html, base, policy)
    assert "samples at step" not in html  # no filter has seen those
    told = json.loads((tmp_path / "report/report.json").read_text())["safety"]
    assert (told["images"]["base"]["flagged"], told["images"]["policy"]["flagged"]) == (1, 2)
    assert set(told["filter"]) == {"prompt_blocklist", "safety_checker"}
    strip = np.asarray(Image.open(tmp_path / "report/result.png"))[128:, :, 0].astype(int)  # the policy's, in red
    dog = next(part for part in np.split(strip, 3, axis=1) if part[64, 64] == RED[0])
    assert np.abs(np.diff(dog, axis=1)).max() <= 8  # no comb: its teeth were half as bright
    for folder in shown:
        for name in (FLAGS, FILTER):
            (Path(folder) / name).unlink()
    report.main(config)
    html = (tmp_path / "report/report.html").read_text()
    assert "Blurred" not in html
    assert "samples at step" in html


def test_folders_that_were_not_filtered_alike_are_refused(shown: tuple[str, str]) -> None:
    for name in (FLAGS, FILTER):
        (Path(shown[0]) / name).unlink()
    with pytest.raises(UserError, match=r"/policy and .*/base were not seen by the same safety filter"):
        report.compare(read_drawn(shown[1]), read_drawn(shown[0]))
    with pytest.raises(UserError, match="were not seen by the same safety filter"):
        read_sets(shown)


def test_the_matrix_of_feedback_blurs(shown: tuple[str, str]) -> None:
    base, policy = map(read_drawn, shown)
    strips = feedback_page.strips({"matrix": {"policy": {"red": {"labelled": True}}}}, {"policy": policy}, base)
    dog = next(strip for strip in strips if strip["caption"] == "a dog")
    assert dog["flags"] == {"policy": f"image: safety concept {RED_CONCEPT}"}
    veiled = np.asarray(Image.open(io.BytesIO(blurred(one_per_caption(shown[1])["a dog"])))).tobytes()
    assert embedded(dog["images"]["policy"]) == {veiled}


def test_the_evaluations_command_names_the_filter() -> None:
    config = EvaluateConfig(model="a", safety=SafetyConfig("default", "published"))
    assert "--prompt-blocklist default --safety-checker published" in command_of(config)


def test_the_arena_blurs_both_sides_until_asked(shown: tuple[str, str], tmp_path: Path) -> None:
    sets = read_sets(shown)
    with serving(sets, tmp_path / "votes") as server:
        client = Client(server)
        session = {row["caption"]: row for row in client.session("ann")}
        assert {caption: row["flagged"] for caption, row in session.items()} == {
            "a dog": True, "a nude": True, "a cat": False,
        }  # fmt: skip
        originals = [one_per_caption(folder) for folder in shown]
        for caption, row in session.items():
            own, plain = (
                {
                    np.asarray(Image.open(io.BytesIO(change(one[caption])))).tobytes()
                    for one in originals
                }
                for change in (blurred, bytes)
            )  # fmt: skip
            address = f"/image/{row['pair']}"
            sent, asked = (
                {
                    np.asarray(Image.open(io.BytesIO(client.get(f"{address}/{side}?rater=ann{more}")))).tobytes()
                    for side in ("left", "right")
                }
                for more in ("", "&reveal=1")
            )
            assert asked == plain
            assert sent == (own if row["flagged"] else plain)


async def judge_blurred_pairs(server: ArenaServer, profile: Path, until_end: Callable[[str], str]) -> None:
    """Skip one flagged pair, ask to see the other, and judge what is left."""
    state, skipped = "document.body.dataset.state", 0
    async with open_page(profile) as page:
        await page.resize(1000, 900)
        await page.open(server.url)
        for key in "ann":
            await page.press(key)
        await page.press("Enter")
        for _ in range(3):
            await page.until(f"['judging', 'veiled'].includes({state})")
            if await page.evaluate(state) == "veiled":
                await page.press(" ")  # meant as an answer: neither counts nor reveals
                await page.press("ArrowLeft")
                assert await page.evaluate(state) == "veiled"
                if not skipped:
                    skipped += 1
                    await page.click("#skip")
                    continue
                await page.click("#reveal")
                await page.until(f"{state} === 'judging'")
                assert await page.evaluate("document.querySelector('#left img').src.includes('reveal=1')")
            before = await page.evaluate("document.getElementById('count').textContent")
            for key in ("1", "1", "1"):
                await page.press(key)
            await page.until(until_end(before))
        await page.until(f"{state} === 'end'")
        assert "2 pairs are kept" in await page.evaluate("document.getElementById('summary').textContent")
        assert "You skipped 1 blurred pair." in await page.evaluate("document.getElementById('summary').textContent")
        assert page.errors == []


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium, chromium-browser or google-chrome on this machine")
def test_a_rater_skips_and_reveals_in_a_real_browser(shown: tuple[str, str], tmp_path: Path) -> None:
    def counted(before: str) -> str:
        return (
            "document.body.dataset.state !== 'saving' && "
            f"(document.body.dataset.state === 'end' || document.getElementById('count').textContent !== '{before}')"
        )

    with serving(read_sets(shown), tmp_path / "votes") as server:
        asyncio.run(judge_blurred_pairs(server, tmp_path / "profile", counted))
        answered = [row["caption"] for row in Client(server).session("ann") if row["answers"]]
    assert len(answered) == 2
    assert "a cat" in answered
