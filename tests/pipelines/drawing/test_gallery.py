"""The gallery: files named by numbers, escaped captions, what it leaves out, and a second run that writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support import browser
from support.judging_material import write_images
from support.pages import EVIL, Page

from infra.base import files
from pipelines.drawing import gallery, image_flags, image_sets
from pipelines.drawing.generate_config import GenerateConfig

CAPTIONS = [EVIL, "a/b", "../c"]


def write(folder: Path, shown: int) -> str | None:
    write_images(folder, {caption: [(9, 9, 9), (250, 9, 9)] for caption in CAPTIONS})
    wanted = image_sets.wanted_images(CAPTIONS, 2, seed=0)
    return gallery.write_gallery(str(folder), wanted, GenerateConfig(output=str(folder), gallery=shown))


def test_every_image_is_a_file_and_stands_on_the_page_with_caption_and_seed(tmp_path: Path) -> None:
    page = write(tmp_path, 500)
    assert page == str(tmp_path / "gallery.html")
    names = ["00001-0.png", "00002-1.png", "00003-0.png", "00004-1.png", "00005-0.png", "00006-1.png"]
    assert sorted(path.name for path in (tmp_path / "gallery").glob("*.png")) == names
    html = Path(page).read_text()
    parsed = Page(html)
    assert parsed.loaded == [f"gallery/{name}" for name in names for _ in ("link", "image")]
    assert all(caption in parsed.text for caption in CAPTIONS)
    assert html.count("<script") == 1
    wanted = image_sets.wanted_images(CAPTIONS, 2, seed=0)
    assert all(f"seed {number}" in parsed.text for number in wanted["image_seed"].to_pylist())
    third = image_sets.read_images(str(tmp_path), [wanted["image_id"][2].as_py()])
    assert (tmp_path / "gallery" / names[2]).read_bytes() == third["image"][0].as_py()


def test_the_page_says_how_many_images_it_leaves_out(tmp_path: Path) -> None:
    page = write(tmp_path, 4)
    assert page is not None
    assert len(list((tmp_path / "gallery").glob("*.png"))) == 4
    assert "2 more images are in images/*.parquet" in Page(Path(page).read_text()).text


def test_no_page_is_written_where_none_is_asked_for(tmp_path: Path) -> None:
    assert write(tmp_path, 0) is None
    assert not (tmp_path / "gallery.html").exists()


def test_a_second_run_writes_nothing_and_a_larger_gallery_writes_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 2)
    written: list[str] = []
    plain = files.write_bytes

    def note(path: str, content: bytes) -> None:
        written.append(Path(path).name)
        plain(path, content)

    monkeypatch.setattr(files, "write_bytes", note)
    wanted = image_sets.wanted_images(CAPTIONS, 2, seed=0)
    config = GenerateConfig(output=str(tmp_path), gallery=2)
    assert gallery.write_gallery(str(tmp_path), wanted, config) == str(tmp_path / "gallery.html")
    assert written == []
    gallery.write_gallery(str(tmp_path), wanted, replace(config, gallery=6))
    assert len(written) == 6  # four images more, the page, and which images it shows
    gallery.write_gallery(str(tmp_path), wanted, config)
    assert len(list((tmp_path / "gallery").glob("*.png"))) == 2  # or nobody would blur the others


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(bytes(path.stat().st_size))])
@pytest.mark.parametrize("name", ["gallery/00002-1.png", "gallery.html"])
def test_what_is_gone_or_zeroed_is_written_again(tmp_path: Path, damage: Callable[[Path], None], name: str) -> None:
    write(tmp_path, 4)
    whole = (tmp_path / "gallery" / "00002-1.png").read_bytes()
    damage(tmp_path / name)
    wanted = image_sets.wanted_images(CAPTIONS, 2, seed=0)
    page = gallery.write_gallery(str(tmp_path), wanted, GenerateConfig(output=str(tmp_path), gallery=4))
    assert (tmp_path / "gallery" / "00002-1.png").read_bytes() == whole
    assert Path(str(page)).read_text().rstrip().endswith("</html>")


def flag(folder: Path, image_ids: list[int]) -> None:
    identity = image_flags.flags_identity(str(folder), {"prompt_blocklist": "h"})
    flagged = {str(image_id): "prompt: <word> list" for image_id in image_ids}
    image_flags.write_image_flags(str(folder), {"identity": identity, "images": 6, "flagged": flagged})


def test_flags_blur_a_gallery_that_was_written_before(tmp_path: Path) -> None:
    """The third image's own bytes are in no file; the first caption's order stays, and the page gives the reason."""
    page = write(tmp_path, 4)
    wanted = image_sets.wanted_images(CAPTIONS, 2, seed=0)
    third = wanted["image_id"][2].as_py()
    own = image_sets.read_images(str(tmp_path), [third])["image"][0].as_py()
    names = sorted(path.name for path in (tmp_path / "gallery").glob("*.png"))
    before = {name: (tmp_path / "gallery" / name).read_bytes() for name in names}
    flag(tmp_path, [third])
    assert gallery.show_as_flagged(str(tmp_path)) == f"{page} shows the flagged images blurred"
    after = {name: (tmp_path / "gallery" / name).read_bytes() for name in names}
    assert after == before | {names[2]: image_flags.blurred(own)}
    html = Path(str(page)).read_text()
    assert "blurred: prompt: &lt;word&gt; list" in html
    assert html.count("blurred") == 3  # beside the image, in its place, and in the style
    config = GenerateConfig(output=str(tmp_path), gallery=4)
    gallery.write_gallery(str(tmp_path), wanted, config)  # generate.py given again shows nothing more
    assert (tmp_path / "gallery" / names[2]).read_bytes() == after[names[2]]
    flag(tmp_path, [])
    gallery.show_as_flagged(str(tmp_path))
    assert (tmp_path / "gallery" / names[2]).read_bytes() == own


def test_a_gallery_of_before_goes_where_images_are_flagged(tmp_path: Path) -> None:
    assert gallery.show_as_flagged(str(tmp_path)) is None
    page = write(tmp_path, 4)
    (tmp_path / "gallery" / gallery.SHOWN).unlink()
    flag(tmp_path, [])
    assert "is removed; generate.py writes it anew" in str(gallery.show_as_flagged(str(tmp_path)))
    assert not Path(str(page)).exists()
    assert not (tmp_path / "gallery").exists()


@pytest.mark.skipif(not browser.CHROMIUM, reason="no chromium here")
@pytest.mark.slow
def test_a_click_shows_an_image_large_and_keys_lead_on(tmp_path: Path) -> None:
    page_file = write(tmp_path, 500)
    large = "document.querySelector('dialog[open] img').src.split('/').pop()"

    async def look() -> None:
        async with browser.open_page(tmp_path / "profile") as page:
            await page.open(f"file://{page_file}")
            await page.click(".gallery a")
            assert await page.evaluate(large) == "00001-0.png"
            await page.press("ArrowRight")
            assert await page.evaluate(large) == "00002-1.png"
            await page.press("ArrowLeft")
            await page.press("ArrowLeft")
            assert await page.evaluate(large) == "00006-1.png"
            assert not page.errors
            for width in (1280, 390):
                await page.resize(width, 800)
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    asyncio.run(look())
