"""Drawn images to look at: a file for each, and gallery.html with their captions and seeds.

gallery/IMAGE.png  the bytes of the Parquet; a name holds numbers only, never a caption
gallery.html       loads these files and nothing else; a click shows an image in its full size

Both are for people, and no command reads them. What is missing or differs is written again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra.base import config_files, files
from infra.pages.made import command_of, describe
from infra.pages.page import template
from pipelines.drawing.generate_config import GenerateConfig
from pipelines.drawing.image_sets import read_images

PAGE = "gallery.html"
FOLDER = "gallery"
TEMPLATES = Path(__file__).parent / "templates"
AT_ONCE = 64  # images in memory


def write_gallery(output: str, wanted: pa.Table, config: GenerateConfig) -> str | None:
    """Write the first --gallery images of a finished folder as files, and the page that shows them.

    Args:
        wanted: the images that were drawn, as image_sets.wanted_images lists them.

    Returns:
        The page's path; None where no image is to be shown.
    """
    page = files.join(output, PAGE)
    shown = wanted.slice(0, config.gallery)
    if not shown.num_rows:
        return None
    numbered = list(enumerate(shown.to_pylist(), 1))
    sizes = {name: size for name, size, _ in files.stamps(files.join(output, FOLDER))}
    is_whole = _ends_well(page)
    if not is_whole:
        sizes = {}
    written = sum(_write_files(output, sizes, numbered[at : at + AT_ONCE]) for at in range(0, len(numbered), AT_ONCE))
    if is_whole and written:
        sentence = f"{written} images were missing or altered and are written"
        print(f"{files.join(output, FOLDER)}: {sentence}", file=sys.stderr, flush=True)
    if written or not is_whole:
        files.write_bytes(page, _render(numbered, wanted.num_rows, config).encode())  # last
    return page


def _ends_well(page: str) -> bool:
    return files.is_file(page) and files.read_bytes(page).rstrip().endswith(b"</html>")


def file_name(number: int, image_index: int) -> str:
    """Name an image's file by its place in the set, from 1, and its place among its caption's images, from 0."""
    return f"{number:05d}-{image_index}.png"


def _write_files(output: str, sizes: Mapping[str, int], numbered: Sequence[tuple[int, Mapping[str, Any]]]) -> int:
    """Write those of some images that are not there as they were drawn, and return their number.

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
    """Read some images as they were drawn, by the names of their files."""
    rows = read_images(output, [row["image_id"] for _, row in numbered], ["image"])
    contents = dict(zip(rows["image_id"].to_pylist(), rows["image"].to_pylist(), strict=True))
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
