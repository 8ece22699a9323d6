"""Make raw pairs from comparisons, rankings or ratings: your own, or those of a public preference set (layouts.py).

`python pipelines/import_pairs.py --table pairs.csv --images photos --output raw`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from infra.base import files, logs, next_step
from infra.base.errors import UserError
from pipelines.raw import raw_pairs, streamed_pairs, table_places
from pipelines.raw.comparisons import Comparison, image_path
from pipelines.raw.image_marks import Unread
from pipelines.raw.import_config import ImportConfig
from pipelines.raw.layouts import comparisons_of
from pipelines.raw.pairs import GROUP, PROBABILITY, hash64
from pipelines.raw.table_files import read_rows
from pipelines.raw.votes import Votes, probability_0
from pipelines.raw.webdataset import NAME as WEBDATASET

IMAGE_REWARD = "ImageRewardDB"  # whose archives have an image beside its JSON, under the last part of its path
COUNTED = 1000  # images beside the first one that are missed before the count stops: on S3 each is a request


def read_comparisons(table: table_places.Table) -> tuple[str, list[Comparison]]:
    """Read and check a table that names its images; returns the name of its layout, and its comparisons.

    Raises:
        UserError: naming the file and, where there is one, the line.
    """
    place = f"--table {table.paths[0] if len(table.paths) == 1 else table.folder}"
    if table.kind == "text":
        return comparisons_of(read_rows(table.paths[0]), place)
    rows = list(streamed_pairs.rows_of(table.paths))
    if not rows:
        raise UserError(f"{place}: no comparisons in it")
    return comparisons_of(rows, place)


def find_images(comparisons: list[Comparison], images: str, layout: str) -> dict[str, str]:
    """Look for every image before anything is written; returns their paths by name.

    Raises:
        UserError: naming the first line whose image is not there, and how many others are not.
    """
    known: dict[str, str] = {}
    missing: dict[str, str] = {}  # the first place of each name
    for name, place in ((name, one.place) for one in comparisons for name in one.names):
        if name in known or name in missing:
            continue
        path = image_path(images, name)
        if path is None and layout == IMAGE_REWARD:
            path = image_path(images, PurePosixPath(name).name)
        if path is not None:
            known[name] = path
            continue
        missing[name] = place
        if len(missing) > COUNTED:
            break
    if missing:
        first, place = next(iter(missing.items()))
        least = "at least " if len(missing) > COUNTED else ""
        count = len(missing) - 1
        these = "image is" if count == 1 else "images are"
        others = f" ({least}{count:,} other {these} not there, either)" if count else ""
        raise UserError(
            f"{place}: no image {first} in {images}{others}; correct the names, or give the folder that they count "
            "from as --images"
        )
    return known


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


def imported_pairs(
    comparisons: list[Comparison], paths: dict[str, str], votes: Votes, unread: Unread
) -> Iterator[dict[str, Any]]:
    """Turn comparisons into raw pairs one by one; the images' bytes go in as they are."""
    group: str | None = None
    held: dict[str, bytes] = {}  # images of the group, each read once
    has_votes = any(one.votes is not None for one in comparisons)
    for comparison, ranking_id in zip(comparisons, ranking_ids(comparisons), strict=True):
        if comparison.group is None or comparison.group != group:
            group = comparison.group
            held = {}
        for name in comparison.names:
            if name not in held:
                held[name] = files.read_bytes(paths[name])
                unread.add(name, held[name], f"{comparison.place.rpartition(': ')[0]}: {name}")
        row = _row(ranking_id, comparison, held, votes)
        row |= {PROBABILITY: probability_0(comparison)} if has_votes else {}
        yield row if group is None else row | {GROUP: group}


def streamed(
    table: table_places.Table, images: str, votes: Votes, unread: Unread
) -> tuple[str, Iterator[dict[str, Any]]] | None:
    """Return the layout's name and the raw pairs of a table that holds its images; None of one that names them."""
    if table.kind == "tar":
        return WEBDATASET, _numbered(streamed_pairs.tar_pairs(table), False, votes, unread)
    layout = streamed_pairs.parquet_layout(table) if table.kind == "parquet" else None
    if layout is None:
        return None
    pairs = streamed_pairs.parquet_pairs(table, layout, images)
    return layout.name, _numbered(pairs, layout.has_votes, votes, unread)


def _numbered(
    pairs: Iterator[streamed_pairs.WithImages], has_votes: bool, votes: Votes, unread: Unread
) -> Iterator[dict[str, Any]]:
    """Turn pairs with their images into raw pairs.

    Args:
        has_votes: whether each pair gets a soft label; that of a pair without votes is its label.
    """
    numbering = streamed_pairs.Numbering()
    for pair, shown in pairs:
        ranking_id, named, images = numbering.name(pair, shown)
        for column, (name, content) in zip(pair.names, images.items(), strict=False):  # equal images have one name
            unread.add(name, content, f"{pair.place}, {column}")
        row = _row(ranking_id, named, images, votes)
        yield row | ({PROBABILITY: probability_0(named)} if has_votes else {})


def _row(ranking_id: int, comparison: Comparison, images: dict[str, bytes], votes: Votes) -> dict[str, Any]:
    votes.add(comparison)
    shown = [(name, images[name]) for name in comparison.names]
    row = raw_pairs.labelled_pair(ranking_id, comparison.caption, shown, comparison.label_0, comparison.models[0])
    return row | {"model_1": comparison.models[1]}


def _some(rows: Iterator[dict[str, Any]], table: table_places.Table) -> Iterator[dict[str, Any]]:
    """Yield rows, of which there must be one: raw pairs of before are not replaced by none.

    Raises:
        UserError: if there is none.
    """
    count = 0
    for row in rows:
        count += 1
        yield row
    if not count:
        raise UserError(f"--table {', '.join(table.paths[:3])}: holds no pair; give a table that has some")


def main(config: ImportConfig) -> None:
    """Make raw pairs in Pick-a-Pic's columns from comparisons and their images."""
    output = files.resolve(config.output)
    table = table_places.find(config.table, config.split)
    images = table.folder if config.images is None else files.resolve(config.images)
    votes = Votes()
    unread = Unread()
    with_images = streamed(table, images, votes, unread)
    grouped: set[str] = set()
    if with_images is None:
        layout, comparisons = read_comparisons(table)
        grouped = {one.group for one in comparisons if one.group is not None}
        rows = imported_pairs(comparisons, find_images(comparisons, images, layout), votes, unread)
    else:
        layout, rows = with_images
    count = raw_pairs.write_pairs(output, _some(rows, table), asdict(config))
    if unread.names:
        logs.LOGGER.warning(unread.sentence())
    if votes.pairs:
        print(votes.sentence(), flush=True)
    groups = f" of {len(grouped):,} groups" if grouped else ""
    # Of a real model: the encoder's default is the embedded world's, which knows nobody's own images.
    then = next_step.command("pipelines/encode_latents.py", "--preset", "sd15", "--source", output)
    print(next_step.last_line(output, f"{count} raw pairs{groups}, read as {layout}", then), flush=True)
