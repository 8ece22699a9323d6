"""Rows of a store read where they lie, by its index: from a disk, or from S3 by range requests side by side.

Nothing is copied but, of a store on S3, the index: 24 bytes a pair, once per node. A row's bytes are compared with its
checksum before anything is made of them.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from infra.base import disk_errors, files, s3_filesystem
from infra.base.errors import UserError
from infra.base.node_cache import staged_once
from pipelines.latents import addresses, group_index, schemas, store
from pipelines.latents.schemas import Values
from pipelines.raw import pairs
from training.data import grouped
from training.data.stored import Mirrored, Read, StoredPairs, latent_shape, row_shape, turned

CONNECTIONS = 24  # requests to S3 at once; pyarrow keeps 25 connections
HANDLES = 4096  # files on S3 whose size is known; the first request to another one asks for that, too
LEAST = 1 << 12  # bytes of a request: pyarrow asks not again where a refusal is longer than what was asked for
REPAIR = "run encode_latents.py with --repair"

Span = tuple[int, memoryview]  # where to begin to read, and what to fill


def is_addressable(manifest: store.Manifest) -> bool:
    """Say whether a store has an index; those of earlier versions have none."""
    return addresses.PAIRS in manifest.files


def open_pairs(path: str, manifest: store.Manifest, cache: str | None) -> StoredPairs:
    """Open a store by its index.

    Args:
        cache: folder for the index of a store on S3; by default in the temporary folder.

    Raises:
        UserError: if a file of the index is missing or differs from the manifest's hash, or the empty caption is not
            there.
    """
    index = _local_index(path, manifest, cache)
    by_pair = _mapped(index / Path(addresses.PAIRS).name)
    by_caption = _mapped(index / Path(addresses.CAPTIONS).name)
    groups = _open_groups(path, index, by_pair, manifest) if manifest.counts.images else None
    columns = dict.fromkeys(schemas.latent_columns(manifest.flip), row_shape(manifest))
    prompt_ids = by_caption["prompt_id"].to_numpy()
    empty = int(np.searchsorted(prompt_ids, pairs.prompt_id("")))
    if not (empty < len(prompt_ids) and prompt_ids[empty] == pairs.prompt_id("")):
        raise UserError(f"{path}: its index has no empty caption; {REPAIR}")
    return StoredPairs(
        manifest=manifest,
        pair_ids=by_pair["pair_id"].to_numpy(),
        prompt_rows=by_pair["caption"].to_numpy(),
        latents=grouped.ShownImages(groups)
        if groups
        else _rows(path, by_pair, index / Path(addresses.PAIR_PARTS).name, columns, manifest.dtype),
        prompts=_rows(
            path, by_caption, index / Path(addresses.CAPTION_PARTS).name, manifest.embeddings, manifest.dtype
        ),
        empty_prompt=empty,
        groups=groups,
        buckets=by_pair["bucket"].to_numpy() if manifest.buckets else None,
    )


def _open_groups(path: str, index: Path, by_pair: pa.RecordBatch, manifest: store.Manifest) -> grouped.Groups:
    """Open the images of a store of groups."""
    by_image = _mapped(index / Path(group_index.IMAGES).name)
    columns = dict.fromkeys(schemas.image_columns(manifest.flip), latent_shape(manifest))
    return grouped.Groups(
        images=_rows(path, by_image, index / Path(group_index.IMAGE_PARTS).name, columns, manifest.dtype),
        image_ids=by_image["image_id"].to_numpy(),
        shown=np.stack([by_pair[f"image_{slot}"].to_numpy() for slot in grouped.SLOTS], axis=1),
        pair_groups=by_pair["group_id"].to_numpy(),
    )


def _local_index(path: str, manifest: store.Manifest, cache: str | None) -> Path:
    """Return the folder of the index: the store's own, or this node's copy of one on S3."""
    described = {name: manifest.files[name] for name in manifest.files if name.startswith(f"{addresses.FOLDER}/")}
    if not files.is_remote(path):
        for name, about in described.items():
            _check_index(Path(path) / name, about, files.join(path, name))
        return Path(path) / addresses.FOLDER

    def fill(folder: Path) -> None:
        for name, about in described.items():
            copied = folder / Path(name).name
            if not files.is_file(files.join(path, name)):
                raise UserError(f"{files.join(path, name)}: missing, though its manifest names it; {REPAIR}")
            files.copy(files.join(path, name), str(copied))
            _check_index(copied, about, files.join(path, name))

    size = sum(int(about["bytes"]) for about in described.values())
    # Of all files: a repaired store may have the same pairs in files of other names.
    hashes = "".join(f"{name}:{described[name]['sha256']}\n" for name in sorted(described))
    name = f"index-{hashlib.sha256(hashes.encode()).hexdigest()[:32]}-{manifest.content_hash}"
    return staged_once(cache, name, size, path, fill)


def _check_index(local: Path, about: Mapping[str, Any], named: str) -> None:
    """Compare a file of the index, on a disk, with what the manifest says of it."""
    if not local.is_file():
        raise UserError(f"{named}: missing, though its manifest names it; {REPAIR}")
    same = local.stat().st_size == about["bytes"]
    if not (same and xxhash.xxh3_128_hexdigest(pa.memory_map(str(local)).read_buffer()) == about["xxh3"]):
        raise UserError(f"{named}: its contents differ from its manifest; {REPAIR}")


def _mapped(path: Path) -> pa.RecordBatch:
    """Map an Arrow file of one batch: its columns are then arrays in the page cache, which processes share."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def _rows(
    path: str, rows: pa.RecordBatch, parts: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str
) -> AddressedRows:
    places = _mapped(parts)
    mirrored = f"{addresses.CHECKSUM}{schemas.MIRRORED}"
    return AddressedRows(
        store=path,
        files=places["file"],
        offsets={name: places[name].to_numpy() for name in shapes},
        shapes=shapes,
        dtype=dtype,
        part=rows["part"].to_numpy(),
        row=rows["row"].to_numpy(),
        checksum=rows[addresses.CHECKSUM].to_numpy(),
        mirrored_checksum=rows[mirrored].to_numpy() if mirrored in rows.schema.names else None,
        fetch=_Remote().fetch if files.is_remote(path) else None,
    )


@dataclass(frozen=True, kw_only=True)
class AddressedRows:
    """Rows of columns of values at known places in a store's files."""

    store: str
    files: pa.StringArray  # of each part
    offsets: Mapping[str, npt.NDArray[np.uint64]]  # by column, of row 0 of each part
    shapes: Mapping[str, tuple[int, ...]]
    dtype: str  # of the values as they are stored
    part: npt.NDArray[np.uint32]  # [n]
    row: npt.NDArray[np.uint32]  # [n], in its part
    checksum: npt.NDArray[np.uint32]  # [n], of the row as it is, or in stores of before of all its columns
    mirrored_checksum: npt.NDArray[np.uint32] | None = None  # [n], of its mirror image's columns
    fetch: Callable[[str, list[Span]], None] | None = field(repr=False)  # from S3; None: from a disk

    @property
    def far(self) -> bool:
        """Say whether rows come from S3."""
        return self.fetch is not None

    def begin(self, rows: npt.NDArray[np.int64], mirrored: Mirrored | None = None) -> Read:
        """Ask S3 for rows now; a disk is read when they are waited for.

        Where a mirror image has a checksum of its own, only what is wanted is read.
        """
        apart = mirrored if self.mirrored_checksum is not None else None
        names = [name for name in self.shapes if apart is None or not name.endswith(schemas.MIRRORED)]
        ends = np.full(len(rows), "") if apart is None else np.where(apart, schemas.MIRRORED, "")
        values = {name: np.empty((len(rows), *self.shapes[name]), self.dtype) for name in names}
        jobs = [
            functools.partial(
                self._read_row,
                int(row),
                {f"{name}{end}": memoryview(of_all[place]).cast("B") for name, of_all in values.items()},
            )
            for place, (row, end) in enumerate(zip(rows, ends, strict=True))
        ]
        waits: Sequence[Callable[[], None]] = jobs
        if self.fetch is not None:
            waits = [_pool().submit(job).result for job in jobs]

        def wait() -> Mapping[str, Values]:
            for one in waits:
                one()
            return values if mirrored is None or apart is not None else turned(values, mirrored)

        return wait

    def _read_row(self, row: int, targets: Mapping[str, memoryview]) -> None:
        """Read some columns of one row into memory, and compare their checksums."""
        part = int(self.part[row])
        file = files.join(self.store, self.files[part].as_py())
        spans = [
            (int(self.offsets[name][part]) + int(self.row[row]) * target.nbytes, target)
            for name, target in targets.items()
        ]
        try:
            (self.fetch or _read_spans)(file, spans)
        except FileNotFoundError:
            raise UserError(f"{file}: missing, though its manifest names it; {REPAIR}") from None
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({disk_errors.reason(error)})") from error
        for expected, parts in self._checked(row, targets):
            if addresses.checksum(parts) != expected:
                raise UserError(f"{file}: row {self.row[row]} holds other bytes than were stored; {REPAIR}")

    def _checked(self, row: int, targets: Mapping[str, memoryview]) -> Iterator[tuple[int, list[memoryview]]]:
        """Yield each checksum of a row that some columns have, with the columns that it is of."""
        if self.mirrored_checksum is None:
            yield int(self.checksum[row]), list(targets.values())
            return
        for checksums, is_mirrored in ((self.checksum, False), (self.mirrored_checksum, True)):
            parts = [target for name, target in targets.items() if name.endswith(schemas.MIRRORED) == is_mirrored]
            if parts:
                yield int(checksums[row]), parts


def _read_spans(file: str, spans: list[Span]) -> None:
    """Fill memory from places in a file on a disk; bytes beyond its end stay as they are."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        for offset, target in spans:
            done = 0
            while done < target.nbytes:
                read = os.preadv(descriptor, [target[done:]], offset + done)
                if not read:
                    return
                done += read
    finally:
        os.close(descriptor)


class _Remote:
    """Reads from S3; its client asks again after refusals, silence and answers that were cut (infra/base/files.py)."""

    def __init__(self) -> None:
        self.open = functools.lru_cache(maxsize=HANDLES)(self._open)

    def _open(self, file: str, written: int | None) -> Any:
        del written  # another file of credentials needs another client, and so another handle
        filesystem, inner = files.open_filesystem(file)
        return filesystem.open_input_file(inner)

    def fetch(self, file: str, spans: list[Span]) -> None:
        """Fill memory from places in an object, by one request each."""
        handle = self.open(file, s3_filesystem.credentials_written())
        for offset, target in spans:
            content = handle.read_at(max(target.nbytes, LEAST), offset)[: target.nbytes]
            target[: len(content)] = content


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(CONNECTIONS, "rows")
