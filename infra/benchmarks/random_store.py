"""Random pairs for the benchmarks, in memory and as a latent store: random numbers cost what real ones do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base import files
from pipelines.latents import addresses, label_files, schemas, store, text_columns
from pipelines.raw import pairs
from training.data.applied_labels import Labelled
from training.data.stored import Arrays, StoredPairs, split_slots

Embeddings = Mapping[str, tuple[int, ...]]
PROMPTS = 16
ROWS_PER_FILE = 256


def manifest(
    count: int,
    shape: tuple[int, ...],
    embeddings: Embeddings,
    described: Mapping[str, dict[str, Any]],
    prompts: int = PROMPTS,
    flip: bool = False,
) -> store.Manifest:
    """Describe a store of random pairs; shape is (C, H, W) of a latent, embeddings those of a caption by column."""
    channels, height, width = shape
    return store.Manifest(
        source="random",
        model="random",
        fingerprints={},
        resolution=8 * height,
        latent_shape=(channels, height, width),
        scaling_factor=1.0,
        shift_factor=0.0,
        posterior="sample",
        flip=flip,
        embeddings=dict(embeddings),
        counts=store.Counts(
            rows_in=count, ties=0, invalid=0, quarantined=0, kept=count, contradicting=0, prompts=prompts
        ),
        reasons={},
        content_hash=f"random-{count}-{channels}x{height}x{width}",
        config={},
        files=described,
    )


def normal(generator: np.random.Generator, *size: int) -> npt.NDArray[np.float16]:
    """Draw standard normal numbers."""
    return generator.standard_normal(size, dtype=np.float32).astype(np.float16)


def column(generator: np.random.Generator, name: str, rows: int, embeddings: Embeddings) -> npt.NDArray[np.float16]:
    """Make one column of captions: random numbers, and of a column of lengths the whole length."""
    if name == text_columns.LENGTH:
        return np.full((rows, 1), embeddings["text_encoder"][0], np.float16)
    return normal(generator, rows, *embeddings[name])


def random_pairs(count: int, shape: tuple[int, ...], embeddings: Embeddings) -> Labelled:
    """Make pairs with random latents and embeddings in memory, slot 0 preferred in every second."""
    generator = np.random.default_rng(0)
    latents = normal(generator, count, 2, *shape)
    stored = StoredPairs(
        manifest=manifest(count, shape, embeddings, {}),
        pair_ids=np.arange(count, dtype=np.int64),
        prompt_rows=generator.integers(0, PROMPTS, count, np.uint32),
        latents=split_slots(schemas.latent_columns(flip=False), latents),
        prompts=Arrays({name: column(generator, name, PROMPTS + 1, embeddings) for name in embeddings}),
        empty_prompt=PROMPTS,
    )
    return Labelled(
        pairs=stored,
        rows=np.arange(count, dtype=np.uint32),
        winners=(np.arange(count) % 2).astype(np.uint8),
        preferred=None,
        labels_hash="random",
    )


def write_store(
    folder: Path,
    count: int,
    shape: tuple[int, ...],
    embeddings: Embeddings,
    indexed: bool = True,
    rows_per_file: int = ROWS_PER_FILE,
    prompts: int = PROMPTS,
    flip: bool = False,
) -> None:
    """Write the same as a latent store, with the label set human.

    Args:
        flip: with mirrored images, too.
        indexed: as stores are written now; else as earlier versions did, compressed and without an index.
    """
    options = schemas.WRITTEN_AS if indexed else None
    described: dict[str, dict[str, Any]] = {}
    located: dict[str, addresses.Located | None] = {}
    for name, table in _tables(count, shape, embeddings, rows_per_file, prompts, flip):
        path = str(folder / name)
        sha = files.write_table(path, table, options)
        described[name] = {"bytes": (folder / name).stat().st_size, "sha256": sha, "rows": table.num_rows}
        located[name] = addresses.locate(files.read_bytes(path), table) if indexed else None
    described |= addresses.write(str(folder), located)
    ids = np.arange(count)
    nulls = pa.nulls(count, pa.float32())
    labels = [ids, nulls, nulls, pa.array(ids % 2, pa.float32()), nulls]
    label_files.write_labels(
        str(folder), "human", pa.table(labels, names=label_files.LABELS_SCHEMA.names), {"scorer": "human"}
    )
    store.publish(str(folder), manifest(count, shape, embeddings, described, prompts, flip))


def _tables(
    count: int, shape: tuple[int, ...], embeddings: Embeddings, rows_per_file: int, prompts: int, flip: bool
) -> Iterator[tuple[str, pa.Table]]:
    """Yield each Parquet file's name in the store and its rows."""
    generator = np.random.default_rng(0)
    captions = ["", *(f"caption {number}" for number in range(prompts))]
    prompt_ids = np.array([pairs.prompt_id(caption) for caption in captions])
    columns: dict[str, Any] = {"prompt_id": prompt_ids, "caption": captions}
    for name, size in embeddings.items():
        columns[name] = schemas.value_lists(normal(generator, len(captions), math.prod(size)))
    yield "prompts/part-0.parquet", pa.table(columns)
    for start in range(0, count, rows_per_file):
        ids = np.arange(start, min(start + rows_per_file, count))
        kept: dict[str, Any] = {"pair_id": ids, "prompt_id": prompt_ids[1 + ids % prompts]}
        for column in schemas.latent_columns(flip):
            kept[column] = schemas.value_lists(normal(generator, len(ids), math.prod(shape)))
        yield f"pairs/status=kept/part-{start}.parquet", pa.table(kept)
