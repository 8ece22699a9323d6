"""Make raw pairs from your own comparisons, rankings or ratings: a folder of images and a table (layouts.py).

`python pipelines/import_pairs.py --table pairs.csv --images photos --output raw`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from infra.base import files, next_step
from infra.base.errors import UserError
from pipelines.raw import raw_pairs
from pipelines.raw.import_config import ImportConfig
from pipelines.raw.layouts import Comparison, comparisons_of
from pipelines.raw.pairs import GROUP, hash64
from pipelines.raw.table_files import read_rows


def read_comparisons(path: str) -> tuple[str, list[Comparison]]:
    """Read and check the table; returns the name of its layout, and its comparisons.

    Raises:
        UserError: naming the file and, where there is one, the line.
    """
    return comparisons_of(read_rows(path), f"--table {path}")


def image_path(images: str, name: str) -> str | None:
    """Return the path of an image, or None where the folder has none of that name or the name leads out of it."""
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        return None
    path = files.join(images, name)
    return path if files.is_file(path) else None


def check_images(comparisons: list[Comparison], images: str) -> None:
    """Look for every image before anything is written.

    Raises:
        UserError: naming the first line whose image is not there.
    """
    known: set[str] = set()
    for comparison in comparisons:
        for name in comparison.names:
            if name not in known and image_path(images, name) is None:
                raise UserError(f"{comparison.place}: no image {name} in {images}")
            known.add(name)


def ranking_ids(comparisons: list[Comparison]) -> list[int]:
    """Give each comparison an id, two raters' comparisons of the same images included.

    Equal (caption, image_0, image_1) are numbered by label, so the ids do not depend on the order of the table.
    """
    numbered: dict[int, int] = {}
    used: Counter[tuple[str, str, str]] = Counter()
    for index in sorted(range(len(comparisons)), key=lambda index: comparisons[index].label_0):
        one = comparisons[index]
        compared = (one.caption, *one.names)
        numbered[index] = hash64(*(part.encode() for part in compared), str(used[compared]).encode())
        used[compared] += 1
    return [numbered[index] for index in range(len(comparisons))]


def imported_pairs(comparisons: list[Comparison], images: str) -> Iterator[dict[str, Any]]:
    """Turn comparisons into raw pairs one by one; the images' bytes go in as they are."""
    group: str | None = None
    held: dict[str, bytes] = {}  # images of the group, each read once
    for comparison, ranking_id in zip(comparisons, ranking_ids(comparisons), strict=True):
        if comparison.group is None or comparison.group != group:
            group = comparison.group
            held = {}
        for name in comparison.names:
            if name not in held:
                held[name] = files.read_bytes(files.join(images, name))
        shown = [(name, held[name]) for name in comparison.names]
        row = raw_pairs.labelled_pair(ranking_id, comparison.caption, shown, comparison.label_0, "imported")
        yield row if group is None else row | {GROUP: group}


def main(config: ImportConfig) -> None:
    """Make raw pairs in Pick-a-Pic's columns from a folder of images and a table of comparisons."""
    output = files.resolve(config.output)
    images = files.resolve(config.images)
    layout, comparisons = read_comparisons(files.resolve(config.table))
    check_images(comparisons, images)
    count = raw_pairs.write_pairs(output, imported_pairs(comparisons, images), asdict(config))
    grouped = {one.group for one in comparisons if one.group is not None}
    groups = f" of {len(grouped):,} groups" if grouped else ""
    then = next_step.command("pipelines/encode_latents.py", "--source", output)
    print(next_step.last_line(output, f"{count} raw pairs{groups}, read as {layout}", then), flush=True)
