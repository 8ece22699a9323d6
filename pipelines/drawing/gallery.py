"""Drawn images to look at: a file for each, and gallery.html with their captions and seeds.

gallery/IMAGE.png  the bytes of the Parquet; a name holds numbers only, never a caption
gallery.html       loads these files and nothing else; a click shows an image in its full size
"""

from __future__ import annotations

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
    written = files.list_files(files.join(output, FOLDER), ".png")
    if not files.exists(page) or len(written) < shown.num_rows:  # the page is written last
        numbered = list(enumerate(shown.to_pylist(), 1))
        for start in range(0, len(numbered), AT_ONCE):
            _write_files(output, numbered[start : start + AT_ONCE])
        files.write_bytes(page, _render(numbered, wanted.num_rows, config).encode())
    return page


def file_name(number: int, image_index: int) -> str:
    """Name an image's file by its place in the set, from 1, and its place among its caption's images, from 0."""
    return f"{number:05d}-{image_index}.png"


def _write_files(output: str, numbered: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
    rows = read_images(output, [row["image_id"] for _, row in numbered], ["image"])
    contents = dict(zip(rows["image_id"].to_pylist(), rows["image"].to_pylist(), strict=True))

    def write(place: tuple[int, Mapping[str, Any]]) -> None:
        number, row = place
        path = files.join(output, FOLDER, file_name(number, row["image_index"]))
        files.write_bytes(path, contents[row["image_id"]])

    with ThreadPoolExecutor() as pool:  # on S3 each file is a round trip
        list(pool.map(write, numbered))


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
