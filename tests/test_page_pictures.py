"""Every page as a browser shows it, on a phone and on a desk: nothing too wide, unreadable, unnamed or cut in two.

With the Chromium that `make .venv/browser/chromium` fetches, whose fonts are its own, the pictures are also compared
with those in tests/data/pages. TAKE_PICTURES=1 in the environment stores them anew: where a change of a page is meant.
"""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from support import arena_material, browser, page_kinds

from pipelines.arena_app.arena_pairs import read_sets

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not browser.CHROMIUM, reason="no chromium here")]
KINDS = (
    "report",
    "evaluation",
    "side-by-side",
    "comparison",
    "gallery",
    "contact-sheet",
    "run",
    "feedback",
    "arena-report",
    "paper",
)
WIDTHS = (390, 1280)  # pixels: a phone, a desk
CHECKS = (Path(__file__).parent / "support" / "page_checks.js").read_text()
STORED = Path(__file__).parent / "data" / "pages"
SMALLER = 8  # a stored picture is the page's, so many times smaller, grey
HIGHEST = 4000  # pixels of a page that a picture has
UNLIKE = 6.0  # of 255, the mean difference from which on two pictures are not the same
# What differs from run to run: folders of this machine, and how, when and by which versions the page was made.
TIDY = """(() => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) texts.currentNode.data = texts.currentNode.data.replaceAll(%r, "/folder");
  for (let at = document.querySelector(".made")?.previousElementSibling; at; ) {
    const next = at.nextElementSibling;
    at.remove();
    at = next;
  }
})()"""


def compared(picture: bytes) -> npt.NDArray[np.uint8]:
    """Return a picture as it is stored: [h, w] uint8, grey."""
    image = Image.open(io.BytesIO(picture)).convert("L")
    image = image.crop((0, 0, image.width, min(image.height, HIGHEST)))
    return np.asarray(image.resize((image.width // SMALLER, image.height // SMALLER), Image.Resampling.BOX))


def unlike(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> str | None:
    """Say how two pictures differ; None where they are the same, but for the edges of letters."""
    if one.shape != other.shape:
        return f"{one.shape[1]} x {one.shape[0]} and not {other.shape[1]} x {other.shape[0]}"
    difference = float(np.abs(one.astype(np.int16) - other).mean())
    return f"differs by {difference:.1f} of 255" if difference > UNLIKE else None


def check_picture(name: str, taken: bytes, folder: Path) -> None:
    """Hold a picture against the stored one of its name, or store it where that is asked for."""
    file = f"{name}.png"
    picture = compared(taken)
    (folder / file).write_bytes(taken)
    if os.environ.get("TAKE_PICTURES"):
        Image.fromarray(picture).save(STORED / file, optimize=True)
    difference = unlike(picture, np.asarray(Image.open(STORED / file)))
    assert difference is None, f"{file} {difference}; the new picture is {folder / file}"


async def take(page: browser.Page, kind: str) -> dict[str, bytes]:
    """Picture the page that is open at both widths; returns the pictures by kind and width."""
    pictures = {}
    for width in WIDTHS:
        await page.resize(width, 900)
        pictures[f"{kind}-{width}"] = await page.picture()
    return pictures


@asynccontextmanager
async def opened(profile: Path) -> AsyncIterator[browser.Page]:
    async with browser.open_page(profile) as page:
        yield page
        assert page.errors == []


async def faults_of(page: browser.Page, where: str) -> list[str]:
    """List the faults of the page that is open, at both widths, light and dark."""
    found = []
    for width in WIDTHS:
        await page.resize(width, 900)
        for theme in ("light", "dark"):
            found += [f"{where}, {width}, {theme}: {fault}" for fault in await page.evaluate(CHECKS)]
            await page.evaluate("document.getElementById('dark')?.click()")
    return found


async def look(made: Mapping[str, Path], folder: Path) -> tuple[list[str], dict[str, bytes]]:
    """Open each page; returns what is wrong with them, and their pictures by kind and width."""
    faults: list[str] = []
    pictures: dict[str, bytes] = {}
    async with opened(folder / "profile") as page:
        for kind, file in made.items():
            await page.open(f"file://{file}")
            await page.evaluate(TIDY % str(folder))
            pictures |= await take(page, kind)
            faults += await faults_of(page, kind)
    return faults, pictures


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("pages")
    made = page_kinds.write_pages(folder)
    assert set(made) == set(KINDS)
    return asyncio.run(look(made, folder))


def test_no_page_is_too_wide_unreadable_or_unnamed(seen: tuple[list[str], dict[str, bytes]]) -> None:
    assert seen[0] == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.skipif(not browser.OWN_CHROMIUM, reason="fonts of this machine; give `make .venv/browser/chromium`")
def test_a_page_looks_as_it_did(kind: str, seen: tuple[list[str], dict[str, bytes]], tmp_path: Path) -> None:
    for width in WIDTHS:
        check_picture(f"{kind}-{width}", seen[1][f"{kind}-{width}"], tmp_path)


def test_pictures_of_another_layout_are_unlike() -> None:
    one = np.full((100, 160), 255, np.uint8)
    one[20:30] = 0  # a tenth of the page is dark, here and five lines lower
    assert unlike(one, one) is None
    assert unlike(one, np.roll(one, 5, axis=0)) == "differs by 25.5 of 255"  # 10 of 100 lines, of them 5 differ twice
    assert unlike(one, one[:90]) == "160 x 100 and not 160 x 90"


def test_the_arena_is_readable_in_each_of_its_states(tmp_path: Path) -> None:
    pictures: dict[str, bytes] = {}

    async def judge(url: str) -> list[str]:
        async with opened(tmp_path / "profile") as page:
            await page.open(url)
            pictures.update(await take(page, "arena-start"))
            found = await faults_of(page, "start")
            for key in "ann":
                await page.press(key)
            await page.press("Enter")
            await page.until("document.body.dataset.state === 'judging'")
            pictures.update(await take(page, "arena-judging"))
            found += await faults_of(page, "judging")
            await page.press("z")
            found += await faults_of(page, "judging, larger")
            return found

    with arena_material.serving(read_sets(arena_material.write_sets(tmp_path)), tmp_path / "votes") as server:
        assert asyncio.run(judge(server.url)) == []
    for name, taken in pictures.items() if browser.OWN_CHROMIUM else ():  # elsewhere the fonts are others
        check_picture(name, taken, tmp_path)
