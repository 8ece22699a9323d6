"""A store without an index, of an earlier version: its arrays copied once per node's disk and memory-mapped."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base import tables
from infra.base.errors import UserError
from infra.base.node_cache import staged_once
from pipelines.latents import schemas, store
from pipelines.raw import pairs
from training.data.stored import Arrays, StoredPairs, row_shape, split_slots

LAYOUT = 3  # of the copies; another one must not take those of an older version for its own


def stage(path: str, cache: str | None = None) -> StoredPairs:
    """Copy a store's arrays to local disk once, and map them.

    Compressed Parquet gives hundreds of random rows a second, and a memory map tens of thousands. The folder is named
    by the store's content, so it is never stale.

    Raises:
        UserError: if the store is unfinished, a file differs from the manifest's hash, or a pair's caption is missing.
    """
    manifest = store.read_manifest(path)

    def fill(folder: Path) -> None:
        size = staged_bytes(manifest)
        print(
            f"{path}: has no index, as stores of earlier versions, so its {size:,} bytes are copied to {folder.parent}",
            file=sys.stderr,
            flush=True,
        )
        store.verify(path, manifest, contents=True)
        _stage_prompts(path, folder, manifest)
        _stage_pairs(path, folder, manifest)

    folder = staged_once(cache, f"{manifest.content_hash}-{LAYOUT}", staged_bytes(manifest), path, fill)
    prompt_ids = np.load(folder / "prompt_ids.npy")
    latents = np.load(folder / "latents.npy", mmap_mode="r")
    return StoredPairs(
        manifest=manifest,
        pair_ids=np.load(folder / "pair_ids.npy", mmap_mode="r"),
        prompt_rows=np.load(folder / "prompt_rows.npy", mmap_mode="r"),
        latents=split_slots(schemas.latent_columns(manifest.flip), latents),
        prompts=Arrays({name: np.load(folder / f"prompts-{name}.npy", mmap_mode="r") for name in manifest.embeddings}),
        empty_prompt=int(np.searchsorted(prompt_ids, pairs.prompt_id(""))),
        buckets=np.load(folder / "buckets.npy") if manifest.buckets else None,
    )


def staged_bytes(manifest: store.Manifest) -> int:
    """Count the bytes of a store's arrays: latents of kept pairs and embeddings of captions."""
    images = len(schemas.latent_columns(manifest.flip))
    pair = images * manifest.row_values
    prompt = sum(math.prod(shape) for shape in manifest.embeddings.values())
    return np.dtype(manifest.dtype).itemsize * (manifest.counts.kept * pair + (manifest.counts.prompts + 1) * prompt)


def _tables(path: str, manifest: store.Manifest, part: str, columns: list[str]) -> Iterator[pa.Table]:
    for file in store.files_of(path, manifest, part):
        yield tables.read([file], columns)


def _stage_prompts(path: str, folder: Path, manifest: store.Manifest) -> None:
    ids = np.concatenate([table["prompt_id"].to_numpy() for table in _tables(path, manifest, "prompts", ["prompt_id"])])
    _prompt_rows(path, np.sort(ids), np.array([pairs.prompt_id("")]))  # refused here, so that no copy lacks it
    rank = _rank(ids)
    for name, shape in manifest.embeddings.items():
        file = folder / f"prompts-{name}.npy"
        start = 0
        prompts = np.lib.format.open_memmap(file, mode="w+", dtype=manifest.dtype, shape=(len(ids), *shape))
        for table in _tables(path, manifest, "prompts", [name]):
            prompts[rank[start : start + table.num_rows]] = schemas.value_rows(table[name]).reshape(-1, *shape)
            start += table.num_rows
        prompts.flush()
    np.save(folder / "prompt_ids.npy", np.sort(ids))


def _rank(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the place of each id in ascending order."""
    rank = np.empty(len(ids), np.int64)
    rank[np.argsort(ids)] = np.arange(len(ids))
    return rank


def _prompt_rows(path: str, prompt_ids: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
    """Find captions by their ids; a missing one must not take its neighbour's embedding."""
    rows = np.minimum(np.searchsorted(prompt_ids, wanted), len(prompt_ids) - 1)
    lost = wanted[prompt_ids[rows] != wanted]
    if len(lost):
        raise UserError(
            f"{path}: prompts/ has no prompt_id {lost[0]}, which its pairs need; "
            "delete prompts/ there and run encode_latents.py with --repair"
        )
    return rows


def _stage_pairs(path: str, folder: Path, manifest: store.Manifest) -> None:
    ids = np.concatenate([table["pair_id"].to_numpy() for table in _tables(path, manifest, store.KEPT, ["pair_id"])])
    rank = _rank(ids)
    prompt_ids = np.load(folder / "prompt_ids.npy")
    prompt_rows = np.empty(len(ids), np.uint32)
    columns = list(schemas.latent_columns(manifest.flip))
    shape = (len(columns), *row_shape(manifest))
    latents = np.lib.format.open_memmap(
        folder / "latents.npy", mode="w+", dtype=manifest.dtype, shape=(len(ids), *shape)
    )
    start = 0
    sides = list(schemas.SIDES) if manifest.buckets else []
    buckets = np.empty(len(ids), np.uint8)
    for table in _tables(path, manifest, store.KEPT, ["prompt_id", *columns, *sides]):
        rows = rank[start : start + table.num_rows]
        if sides:
            of_rows = np.stack([table[name].to_numpy() for name in sides], axis=1)
            buckets[rows] = schemas.bucket_places(of_rows, manifest.buckets)
        stacked = np.stack([schemas.value_rows(table[name]) for name in columns], axis=1)
        latents[rows] = stacked.reshape(-1, *shape)
        prompt_rows[rows] = _prompt_rows(path, prompt_ids, table["prompt_id"].to_numpy())
        start += table.num_rows
    latents.flush()
    np.save(folder / "pair_ids.npy", np.sort(ids))
    np.save(folder / "prompt_rows.npy", prompt_rows)
    if sides:
        np.save(folder / "buckets.npy", buckets)
