"""Raw groups drawn without a model, and the same pairs as a source of pairs has them."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from infra.world.shapes import COLOURS, all_scenes, render
from pipelines.raw.raw_pairs import SCHEMA, labelled_pair

GROUPED = pa.schema([*SCHEMA, ("group_id", pa.string())])


def grouped_rows(groups: int, size: int, seed: int = 0) -> list[dict[str, Any]]:
    """Make all pairs of groups of images, the earlier image better; bytes stand in the first row that shows one."""
    rng = np.random.default_rng(seed)
    scenes = all_scenes()[::2]
    rows = []
    for number in range(groups):
        scene = scenes[number % len(scenes)]
        images = []
        for place in range(size):
            buffer = io.BytesIO()
            shown = replace(scene, background=list(COLOURS)[place])
            Image.fromarray(render(shown, rng)).save(buffer, format="PNG")
            images.append((f"{number}-{place}", buffer.getvalue()))
        for one, other in itertools.combinations(range(size), 2):
            places = [one, other] if (one + other) % 2 else [other, one]
            shown_images = [images[place] for place in places]
            rows.append(
                labelled_pair(
                    number * size**2 + one * size + other,
                    scene.caption,
                    shown_images,
                    float(places[0] < places[1]),
                    "m",
                )
                | {"group_id": f"group {number}"}
            )
    return rows


def compact(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave an image's bytes in the first row that shows it alone."""
    seen: set[tuple[str, str]] = set()
    out = []
    for row in rows:
        kept = dict(row)
        for slot in (0, 1):
            key = (row["group_id"], row[f"image_{slot}_uid"])
            kept[f"jpg_{slot}"] = None if key in seen else row[f"jpg_{slot}"]
            seen.add(key)
        out.append(kept)
    return out


def write_rows(folder: Path, rows: list[dict[str, Any]], rows_per_file: int = 1000) -> Path:
    """Write rows as raw pairs with groups."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(rows), rows_per_file):
        part = pa.Table.from_pylist(rows[start : start + rows_per_file], schema=GROUPED)
        pq.write_table(part, folder / f"pairs-{start:05d}.parquet")
    return folder
