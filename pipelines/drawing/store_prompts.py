"""The captions of a latent store as prompts, each with the shape of its pairs."""

from __future__ import annotations

import pyarrow.compute as pc

from infra.base import files, tables
from pipelines.drawing.prompts import Prompt
from pipelines.latents import schemas, store

PROMPTS = "prompts"


def is_store(path: str) -> bool:
    """Say whether a folder is a finished latent store."""
    return files.exists(files.join(path, store.MANIFEST)) and files.exists(files.join(path, PROMPTS))


def read_store(path: str) -> list[Prompt]:
    """Read the captions of a store's kept pairs, each once, by ascending prompt_id, as --hold-out takes them.

    Each has the shape that most of its pairs have, the lower and then the narrower one where two are as common.

    Raises:
        UserError: if the store is unfinished or damaged.
    """
    manifest = store.read_manifest(path)
    sides = schemas.SIDES if manifest.buckets else ()
    pairs = tables.read(store.files_of(path, manifest, store.KEPT), ["prompt_id", *sides])
    captions = tables.read(store.files_of(path, manifest, PROMPTS), ["prompt_id", "caption"])
    text = dict(zip(captions["prompt_id"].to_pylist(), captions["caption"].to_pylist(), strict=True))
    counted = pairs.append_column("one", pc.cast(pc.is_valid(pairs["prompt_id"]), "int32"))
    counted = counted.group_by(["prompt_id", *sides]).aggregate([("one", "sum")])
    order = [("prompt_id", "ascending"), ("one_sum", "descending"), *((side, "ascending") for side in sides)]
    shapes: dict[int, tuple[int, int]] = {}
    for row in counted.sort_by(order).to_pylist():
        square = manifest.resolution
        shapes.setdefault(row["prompt_id"], (row.get("height", square), row.get("width", square)))
    return [Prompt(text[key], shape=shape) for key, shape in shapes.items()]
