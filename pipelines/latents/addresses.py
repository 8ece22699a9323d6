"""Where each row of a finished store lies, so that training reads rows where they are and copies nothing.

index/pairs.arrow          pair_id ascending, part, row, caption, checksum: 24 bytes a pair; with --buckets also bucket,
                           one byte more: its place among the manifest's; with --flip also checksum_flipped
index/captions.arrow       prompt_id ascending, part, row, checksum
index/pair_parts.arrow     of each part its file, and of each latent column the byte at which row 0 begins
index/caption_parts.arrow  the same of captions and embedding columns

A part is a row group of a Parquet file. schemas.WRITTEN_AS puts a column's values into one page, uncompressed, so they
are the last bytes of the column's chunk. Row i of n then begins (n - i) x width bytes before the chunk's end. The
publisher compares these bytes with the decoded values of every row before it writes an index. A store without one, for
example of an earlier version, is read through a copy instead (training/data/staging.py).

The files are Arrow IPC, which maps into memory as it is. The manifest has their hashes; they have each row's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from infra.base import files, tables
from pipelines.latents import schemas, store

FOLDER = "index"
PAIRS = "index/pairs.arrow"
CAPTIONS = "index/captions.arrow"
PAIR_PARTS = "index/pair_parts.arrow"
CAPTION_PARTS = "index/caption_parts.arrow"
ROW_BYTES = {PAIRS: 24, CAPTIONS: 20}  # of a row of the index
CHECKSUM = "checksum"  # its columns: of a row as stored, and with --flip of its mirror image, which is read apart
CHECKSUM_BYTES = 4
KEYS = {store.KEPT: "pair_id", "prompts": "prompt_id"}  # folder of the rows that are read at random: their id


@dataclass(frozen=True)
class Part:
    """A row group: its number of rows, and where row 0 of each fixed-size column begins in the file."""

    rows: int
    offsets: Mapping[str, int]  # bytes, by column


@dataclass(frozen=True, kw_only=True)
class Located:
    """The rows of one file, in its order."""

    ids: npt.NDArray[np.int64]
    captions: npt.NDArray[np.int64] | None  # prompt_id of each pair; None of captions themselves
    checksums: npt.NDArray[np.uint32]
    parts: Sequence[Part]
    mirrored: npt.NDArray[np.uint32] | None = None  # checksums of the columns of mirrored images
    sides: npt.NDArray[np.int32] | None = None  # [n, 2] height and width of each pair's bucket, in pixels


def index_bytes(manifest: store.Manifest) -> int:
    """Return the bytes of a store's index but for its parts, which are few: what a node keeps of a store on S3."""
    if manifest.counts.images:
        return sum(int(about["bytes"]) for name, about in manifest.files.items() if name.startswith(f"{FOLDER}/"))
    pair = ROW_BYTES[PAIRS] + bool(manifest.buckets) + CHECKSUM_BYTES * manifest.flip
    return pair * manifest.counts.kept + ROW_BYTES[CAPTIONS] * (manifest.counts.prompts + 1)


def checksum(values: Sequence[bytes | memoryview]) -> int:
    """Return the 32-bit checksum of a row: the low half of XXH3 over its columns' bytes, in the columns' order."""
    digest = xxhash.xxh3_64()
    for value in values:
        digest.update(value)
    return digest.intdigest() & 0xFFFFFFFF


def describe_file(path: str) -> tuple[dict[str, Any], Located | None]:
    """Measure one Parquet file of a store (store.describe), and locate its rows; it is read once."""
    content = files.read_bytes(path)
    table = tables.parse(path, content)
    return store.describe(content, table), locate(content, table)


def locate(content: bytes, table: pa.Table) -> Located | None:
    """Find the rows of a Parquet file of kept pairs, images or captions in its bytes.

    Returns:
        None where the values do not lie one row after the other: of other files, and of those of earlier versions.
    """
    key = next(name for name in ("pair_id", "image_id", "prompt_id") if name in table.column_names)
    columns = [field.name for field in table.schema if pa.types.is_fixed_size_list(field.type)]
    if not columns or any(table[name].null_count for name in (key, *columns)):
        return None
    parts: list[Part] = []
    names = [[one for one in columns if one.endswith(schemas.MIRRORED) == turned] for turned in (False, True)]
    sums: list[list[int]] = [[], []]
    footer = pq.read_metadata(pa.BufferReader(content))
    first = 0
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        values = _values(group, {name: _width(table.schema.field(name).type) for name in columns})
        for name, (start, width) in values.items():
            decoded = schemas.value_rows(table[name].slice(first, group.num_rows)).tobytes()
            if content[start : start + width * group.num_rows] != decoded:
                return None
        view = memoryview(content)
        for side, of_side in enumerate(names):
            places = [values[name] for name in of_side]
            for row in range(group.num_rows):
                sums[side].append(checksum([view[start + row * width :][:width] for start, width in places]))
        parts.append(Part(group.num_rows, {name: start for name, (start, _) in values.items()}))
        first += group.num_rows
    return Located(
        ids=table[key].to_numpy(),
        captions=table["prompt_id"].to_numpy() if key == "pair_id" else None,
        checksums=np.array(sums[0], np.uint32),
        parts=parts,
        mirrored=np.array(sums[1], np.uint32) if names[1] else None,
        sides=_sides(table),
    )


def _width(kind: pa.FixedSizeListType) -> int:
    """Return the bytes of a row of a column."""
    return kind.list_size * kind.value_type.bit_width // 8


def _sides(table: pa.Table) -> npt.NDArray[np.int32] | None:
    """Return the sides of each pair's bucket [n, 2]; None where the store has no buckets."""
    if schemas.SIDES[0] not in table.column_names:
        return None
    return np.stack([table[name].to_numpy() for name in schemas.SIDES], axis=1)


def _values(group: pq.RowGroupMetaData, widths: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return where the values of each column would begin, were they the last bytes of its chunk, and a row's width."""
    chunks = [group.column(number) for number in range(group.num_columns)]
    by_name = {chunk.path_in_schema.split(".")[0]: chunk for chunk in chunks}
    places = {}
    for name, width in widths.items():
        chunk = by_name[name]
        begin = min(chunk.data_page_offset, chunk.dictionary_page_offset or chunk.data_page_offset)
        places[name] = (max(0, begin + chunk.total_compressed_size - width * group.num_rows), width)
    return places


def write(
    folder: str, located: Mapping[str, Located | None], buckets: Sequence[tuple[int, int]] = ()
) -> dict[str, dict[str, Any]]:
    """Write a store's index and return what its manifest tells of each file; nothing where a row has no known place.

    Args:
        located: the rows of every file of kept pairs and captions, by the file's name in the store.
        buckets: the store's, heights and widths in pixels.
    """
    whole = {name: one for name, one in sorted(located.items()) if one is not None}
    if len(whole) < len(located):
        return {}
    sides = [{name: one for name, one in whole.items() if name.startswith(f"{part}/")} for part in KEYS]
    pairs, pair_parts = index_of("pair_id", sides[0])
    captions, caption_parts = index_of("prompt_id", sides[1])
    prompts = np.concatenate([one.captions for one in sides[0].values() if one.captions is not None])
    order = np.argsort(np.concatenate([one.ids for one in sides[0].values()]))
    rows = np.searchsorted(captions["prompt_id"].to_numpy(), prompts[order]).astype(np.uint32)
    pairs = pairs.append_column("caption", pa.array(rows))
    if buckets:
        shapes = np.concatenate([one.sides for one in sides[0].values() if one.sides is not None])
        pairs = pairs.append_column("bucket", pa.array(schemas.bucket_places(shapes, buckets)[order]))
    written = {PAIRS: pairs, PAIR_PARTS: pair_parts, CAPTIONS: captions, CAPTION_PARTS: caption_parts}
    return {name: write_arrow(files.join(folder, name), table) for name, table in written.items()}


def index_of(key: str, located: Mapping[str, Located]) -> tuple[pa.Table, pa.Table]:
    """Return the rows of some files in the order of their ids, and the parts that they lie in."""
    parts = [(name, part) for name, one in located.items() for part in one.parts]
    lengths = [part.rows for _, part in parts]
    ids = np.concatenate([one.ids for one in located.values()])
    order = np.argsort(ids)
    rows = {
        key: ids,
        "part": np.repeat(np.arange(len(parts), dtype=np.uint32), lengths),
        "row": np.concatenate([np.arange(length, dtype=np.uint32) for length in lengths]),
        CHECKSUM: np.concatenate([one.checksums for one in located.values()]),
    }
    mirrored = [one.mirrored for one in located.values() if one.mirrored is not None]
    if mirrored:
        rows[f"{CHECKSUM}{schemas.MIRRORED}"] = np.concatenate(mirrored)
    columns = {"file": pa.array([name for name, _ in parts])}
    for name in parts[0][1].offsets:
        columns[name] = pa.array([part.offsets[name] for _, part in parts], pa.uint64())
    return pa.table({name: pa.array(values[order]) for name, values in rows.items()}), pa.table(columns)


def write_arrow(path: str, table: pa.Table) -> dict[str, Any]:
    """Write a file of the index, and return what the manifest tells of it."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        for batch in table.combine_chunks().to_batches():  # one: it is mapped as whole arrays
            writer.write_batch(batch)
    content = sink.getvalue()
    files.write_bytes(path, content)
    return {
        "bytes": content.size,
        "sha256": hashlib.sha256(content).hexdigest(),
        "xxh3": xxhash.xxh3_128_hexdigest(content),  # compared at each start: SHA-256 takes 50 times as long
        "rows": table.num_rows,
    }
