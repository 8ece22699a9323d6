"""Drawn images to look at: a file for each, and gallery.html with their captions and seeds.

gallery/IMAGE.png   the bytes of the Parquet, or those of a blurred image where a safety filter flagged it; a name
                    holds numbers only, never a caption
gallery/shown.json  which images are shown, so that flag_images.py can show them again
gallery.html        loads these files and nothing else; a click shows an image in its full size

They are for people. What is missing or differs is written again.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infra.base import config_files, files
from infra.base.errors import UserError
from infra.pages.made import command_of, describe
from infra.pages.page import template
from pipelines.drawing.generate_config import GenerateConfig
from pipelines.drawing.image_flags import flag_reasons, shown_contents
from pipelines.drawing.image_sets import read_images

PAGE = "gallery.html"
FOLDER = "gallery"
SHOWN = "shown.json"
NAME = re.compile(r"\d{5,}-\d+\.png")
TEMPLATES = Path(__file__).parent / "templates"
AT_ONCE = 64  # images in memory


def write_gallery(output: str, wanted: pa.Table, config: GenerateConfig) -> str | None:
    """Write the first --gallery images of a finished folder as files, and the page that shows them.

    Args:
        wanted: the images that were drawn, as image_sets.wanted_images lists them.

    Returns:
        The page's path; None where no image is to be shown.
    """
    shown = wanted.slice(0, config.gallery)
    return _write(output, shown, wanted.num_rows, config) if shown.num_rows else None


def show_as_flagged(output: str) -> str | None:
    """Show a folder's gallery as its image flags are now; say what was done, or None where there is no gallery.

    A gallery of an earlier version does not tell which images it shows, and is removed.
    """
    page = files.join(output, PAGE)
    folder = files.join(output, FOLDER)
    recorded = _recorded(files.join(folder, SHOWN))
    if recorded is not None:
        ids = recorded["images"]
        rows = read_images(output, ids, ["caption", "image_index", "image_seed"])
        ordered = rows.take(pc.index_in(pa.array(ids, pa.int64()), rows["image_id"]))
        _write(output, ordered, recorded["of"], GenerateConfig(**recorded["config"]))
        return f"{page} shows the flagged images blurred"
    if not files.exists(page) and not files.list_files(folder):
        return None
    files.remove(page, output)
    files.remove(folder, output)
    return f"{page} showed images as they are, and is removed; generate.py writes it anew, given its command again"


def _write(output: str, shown: pa.Table, images: int, config: GenerateConfig) -> str:
    """Write what is missing or differs of the images to be shown, then the page; images: drawn, shown or not."""
    page = files.join(output, PAGE)
    folder = files.join(output, FOLDER)
    reasons = flag_reasons(output)
    numbered = list(enumerate([row | {"flag": reasons.get(row["image_id"])} for row in shown.to_pylist()], 1))
    about = _about(numbered, images, config)
    recorded = _recorded(files.join(folder, SHOWN))
    is_whole = _ends_well(page)
    is_same = is_whole and recorded in (None, about)
    sizes = {name: size for name, size, _ in files.stamps(folder)}
    _remove_others(output, sizes, numbered)
    known = sizes if is_whole else {}
    written = sum(_write_files(output, known, numbered[at : at + AT_ONCE]) for at in range(0, len(numbered), AT_ONCE))
    if is_same and written:
        print(f"{folder}: {written} images were missing or altered and are written", file=sys.stderr, flush=True)
    if written or not is_same:
        files.write_bytes(page, _render(numbered, images, config).encode())
    if recorded != about:
        files.write_json(files.join(folder, SHOWN), about)  # last
    return page


def _about(numbered: Sequence[tuple[int, Mapping[str, Any]]], images: int, config: GenerateConfig) -> dict[str, Any]:
    """Return what a gallery's record says, as JSON gives it back."""
    rows = [row for _, row in numbered]
    shown = {"images": [row["image_id"] for row in rows], "flags": [row["flag"] for row in rows]}
    about: dict[str, Any] = json.loads(json.dumps(shown | {"of": images, "config": asdict(config)}))
    return about


def _recorded(path: str) -> dict[str, Any] | None:
    """Read which images a gallery shows; None where nobody can tell."""
    try:
        about = files.read_json(path) if files.exists(path) else None
        is_known = about is not None and {"images", "of"} <= about.keys() and bool(GenerateConfig(**about["config"]))
    except (UserError, OSError, TypeError, KeyError, AttributeError):  # torn, out of reach, or of another version
        return None
    return about if is_known else None


def _remove_others(output: str, names: Iterable[str], numbered: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
    """Remove images that a larger gallery showed, which nobody would blur."""
    shown = {file_name(number, row["image_index"]) for number, row in numbered}
    for name in names:
        if NAME.fullmatch(name) and name not in shown:
            files.remove(files.join(output, FOLDER, name), output)


def _ends_well(page: str) -> bool:
    return files.is_file(page) and files.read_bytes(page).rstrip().endswith(b"</html>")


def file_name(number: int, image_index: int) -> str:
    """Name an image's file by its place in the set, from 1, and its place among its caption's images, from 0."""
    return f"{number:05d}-{image_index}.png"


def _write_files(output: str, sizes: Mapping[str, int], numbered: Sequence[tuple[int, Mapping[str, Any]]]) -> int:
    """Write those of some images that are not there as they are to be shown, and return their number.

    Args:
        sizes: bytes of the files that are there; on S3 no more is compared.
    """

    def write(drawn: tuple[str, bytes]) -> bool:
        name, content = drawn
        path = files.join(output, FOLDER, name)
        if sizes.get(name) == len(content) and _is_as_drawn(path, content):
            return False
        files.write_bytes(path, content)
        return True

    with ThreadPoolExecutor() as pool:  # on S3 each file is a round trip
        return sum(pool.map(write, _contents(output, numbered).items()))


def _contents(output: str, numbered: Sequence[tuple[int, Mapping[str, Any]]]) -> dict[str, bytes]:
    """Read some images as they may be shown, by the names of their files."""
    contents = shown_contents(output, [row["image_id"] for _, row in numbered])
    return {file_name(number, row["image_index"]): contents[row["image_id"]] for number, row in numbered}


def _is_as_drawn(path: str, content: bytes) -> bool:
    """Say whether a file, whose size is right, holds an image; of one on S3 no more is compared."""
    try:
        return files.is_remote(path) or files.read_bytes(path) == content
    except OSError:  # it may not be read, and is replaced
        return False


def _render(numbered: Sequence[tuple[int, Mapping[str, Any]]], images: int, config: GenerateConfig) -> str:
    shown = [
        {
            "file": f"{FOLDER}/{file_name(number, row['image_index'])}",
            "caption": row["caption"],
            "seed": row["image_seed"],
            "flag": row["flag"],
        }
        for number, row in numbered
    ]
    return template("gallery.html.jinja", TEMPLATES).render(
        images=shown,
        unshown=images - len(shown),
        config=config,
        settings=config_files.as_yaml(config),
        made=describe(command_of("pipelines/generate.py", config, ("model", "prompts", "output"))),
    )
