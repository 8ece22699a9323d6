"""The latent store's contract: folders, schemas, manifest, lock; how a store is opened, checked and published.

store/
  manifest.json                       written last; a store without it is unfinished
  pairs/status=kept/*.parquet         pair_id, prompt_id, latents_0, latents_1, label_0, uids, models;
                                      with --buckets also height and width, see buckets.py
  pairs/status=tie/*.parquet          the same columns, latents null
  pairs/status=quarantined/*.parquet  pair_id, stage, reason; what was known of the row, the rest null
  prompts/*.parquet                   prompt_id, caption, one column per output of a text encoder; "" is a row
  labels/NAME/*.parquet               pair_id, score_0, score_1, label_0, probability_0, and a manifest of its own
  reference/NAME/*.parquet            pair_id, draw, timestep, error_0, error_1; see training/reference/
  index/*.arrow                       where each row of kept pairs and prompts lies; see addresses.py

A store of groups (pipelines/raw/groups.py) has its latents in images/, each once, and pairs that name two of them:

  images/status=kept/*.parquet        image_id, group_id, prompt_id, latents, image_uid, model
  pairs/status=kept/*.parquet         as above, with group_id, image_0_id and image_1_id in place of latents
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base import disk_lock, files, named_files, records, tables
from infra.base.errors import UserError
from infra.base.versions import KEY, check_version

SCHEMA_VERSION = 1
LABELS_VERSION = 1  # of label sets, which have manifests of their own
MANIFEST = "manifest.json"
SOURCE = "source.json"  # among the work files: what the source's files held when the encoding began
WORK = files.WORK  # checkpoints and intermediate files of an unfinished store
KEPT = "pairs/status=kept"
TIES = "pairs/status=tie"
IMAGES = "images"  # of a store of groups
KEPT_IMAGES = "images/status=kept"
LABELS_FILES = ("part-0.parquet", "quarantined/part-0.parquet")  # of a label set
REPAIR = "give the encoder's command again with --repair, or restore it from a copy"
Values = npt.NDArray[np.float16 | np.float32]  # latents and embeddings, in the store's dtype
SIDES = ("height", "width")  # columns of a pair's bucket, in pixels
TEXT_COLUMNS = ("image_0_uid", "image_1_uid", "model_0", "model_1", "stage", "reason")


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Rows of the source by what became of them; rows_in = ties + quarantined + kept."""

    rows_in: int
    ties: int
    invalid: int  # the quarantined that were refused for their labels
    quarantined: int
    kept: int
    contradicting: int  # rows whose label_1 contradicts label_0, wherever they went
    prompts: int  # unique captions among the kept
    images: int = 0  # that are stored, each once; 0 of a store of pairs
    # Rows of the source, wherever they went (pipelines/raw/repeats.py); older stores did not count them.
    repeated: int | None = None  # the caption and images of an earlier row, in either order
    disagreeing: int | None = None  # of these, another winner than the earlier row's
    same_images: int | None = None  # one image in both slots


@dataclass(frozen=True)
class Manifest:
    """What a finished store says of itself."""

    source: str
    model: str
    fingerprints: Mapping[str, str]  # of each frozen part (pipelines/latents/kinds.py): SHA-256 over config and weights
    resolution: int  # pixels
    latent_shape: tuple[int, int, int]  # C, H, W
    scaling_factor: float | tuple[float, ...]  # of all channels, or one a channel
    shift_factor: float | tuple[float, ...]
    posterior: str
    flip: bool
    embeddings: Mapping[str, tuple[int, ...]]  # shape of each text column, per caption
    counts: Counts
    reasons: Mapping[str, int]  # quarantined rows by stage and reason
    content_hash: str  # of the kept rows and prompts, whatever their order and files
    config: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]] = field(repr=False)  # bytes, sha256 and rows by path within the store
    dtype: str = "float16"  # of latents and embeddings as they are stored: float16 or float32
    schema_version: int = SCHEMA_VERSION
    safety: Mapping[str, str] = field(default_factory=dict)  # the filter's hashes by flag; older stores name none
    # What the source's files held, as pipelines/raw/contents.py notes it; older stores note nothing.
    source_files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    buckets: tuple[tuple[int, int], ...] = ()  # heights and widths in pixels, of --buckets; () where all are squares

    def shape_of(self, bucket: int | None) -> tuple[int, int, int]:
        """Return (C, H, W) of the latents of a bucket, by its place among the buckets; None: of a square."""
        if bucket is None:
            return self.latent_shape
        channels, square, _ = self.latent_shape
        sides = [side * square // self.resolution for side in self.buckets[bucket]]
        return channels, sides[0], sides[1]

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Return (C, H, W) of every shape that latents have here."""
        return tuple(self.shape_of(bucket) for bucket in range(len(self.buckets))) or (self.latent_shape,)

    @property
    def row_values(self) -> int:
        """Return the number of values that a latent column has in each row: those of the largest shape."""
        return max(map(math.prod, self.shapes)) * (2 if self.posterior == "moments" else 1)


# How pairs/ and prompts/ are written: the values of a row group's column then lie in one page, as they are in memory,
# at the end of the column's bytes. So a row's place in the file is known, and training reads it there (addresses.py).
TEXTS = ("caption", *TEXT_COLUMNS, "image_uid", "model")
WRITTEN_AS: Mapping[str, Any] = {
    "compression": dict.fromkeys(TEXTS, "snappy"),
    "use_dictionary": list(TEXTS),
    "data_page_size": 1 << 30,
    "write_page_checksum": True,
}
PAGE_BYTES = 1 << 29  # of one column in a file, at most
PAGE_ROWS = 16_384  # in a file, at most: the writer itself begins a new page after 20,000


def latent_columns(flip: bool) -> tuple[str, ...]:
    """Name the latent columns of a store."""
    return ("latents_0", "latents_1") + (("latents_0_flipped", "latents_1_flipped") if flip else ())


def pairs_schema(latent_size: int, flip: bool, dtype: str = "float16", bucketed: bool = False) -> pa.Schema:
    """Return the schema of pairs/, whatever the status.

    Args:
        latent_size: number of values of a latent column in each row. With buckets it is the largest bucket's: a smaller
            latent's values come first, and zeros follow.
        bucketed: whether pairs have shapes of their own, which height and width tell in pixels.
    """
    values = pa.from_numpy_dtype(np.dtype(dtype))
    latents = [(name, pa.list_(values, latent_size)) for name in latent_columns(flip)]
    texts = [(name, pa.string()) for name in TEXT_COLUMNS]
    head = [("pair_id", pa.int64()), ("prompt_id", pa.int64())]
    if bucketed:
        head += [(name, pa.int32()) for name in SIDES]
    return pa.schema(
        [*head, *latents, ("label_0", pa.float32()), *texts, ("contradicts", pa.bool_()), ("status", pa.string())]
    )


def image_columns(flip: bool) -> tuple[str, ...]:
    """Name the latent columns of the images of a store of groups."""
    return ("latents",) + (("latents_flipped",) if flip else ())


def images_schema(latent_size: int, flip: bool, dtype: str = "float16") -> pa.Schema:
    """Return the schema of images/ of a store of groups, whatever the status."""
    values = pa.from_numpy_dtype(np.dtype(dtype))
    ids = [(name, pa.int64()) for name in ("image_id", "group_id", "prompt_id")]
    latents = [(name, pa.list_(values, latent_size)) for name in image_columns(flip)]
    texts = [(name, pa.string()) for name in ("image_uid", "model", "stage", "reason", "status")]
    return pa.schema([*ids, *latents, *texts])


def grouped_pairs_schema() -> pa.Schema:
    """Return the schema of pairs/ of a store of groups: that of pairs_schema, with two images in place of latents."""
    ids = [(name, pa.int64()) for name in ("pair_id", "prompt_id", "group_id", "image_0_id", "image_1_id")]
    texts = [(name, pa.string()) for name in TEXT_COLUMNS]
    return pa.schema([*ids, ("label_0", pa.float32()), *texts, ("contradicts", pa.bool_()), ("status", pa.string())])


def bucket_places(sides: npt.NDArray[np.int32], buckets: Sequence[tuple[int, int]]) -> npt.NDArray[np.uint8]:
    """Return the place of each pair's bucket among a store's.

    Args:
        sides: [n, 2] height and width of each pair's bucket, in pixels.
    """
    same = (sides[:, None, :] == np.array(buckets)[None, :, :]).all(-1)
    assert same.any(1).all()
    return same.argmax(1).astype(np.uint8)


LABELS_SCHEMA = pa.schema(
    [
        ("pair_id", pa.int64()),
        ("score_0", pa.float32()),
        ("score_1", pa.float32()),
        ("label_0", pa.float32()),
        ("probability_0", pa.float32()),
    ]
)


def value_lists(values: Values, missing: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Wrap [rows, size] as an Arrow fixed-size list column; rows where missing is true become null."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    mask = None if missing is None else pa.array(missing)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)


def value_rows(column: pa.ChunkedArray | pa.Array) -> Values:
    """Read a fixed-size list column without nulls as [rows, size]."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)


def describe(content: bytes, table: pa.Table) -> dict[str, Any]:
    """Measure one Parquet file of a store: bytes, sha256, rows, and a digest of its rows that ignores their order."""
    return {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "rows": table.num_rows,
        "digest": f"{rows_digest(table):032x}",
    }


def rows_digest(table: pa.Table) -> int:
    """Add up a 128-bit hash of each row modulo 2^128, so that equal rows give equal digests in any order."""
    columns: list[list[bytes]] = []
    for name in sorted(table.column_names):
        column = table[name].combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            filled = value_rows(column) if column.null_count == 0 else None
            texts = [row.tobytes() for row in filled] if filled is not None else [b"null"] * len(column)
        else:
            texts = [repr(value).encode("utf-8", "surrogatepass") for value in column.to_pylist()]
        columns.append(texts)
    total = 0
    for row in zip(*columns, strict=True):
        total += int.from_bytes(hashlib.blake2b(b"\x1f".join(row), digest_size=16).digest(), "little")
    return total % (1 << 128)


def read_manifest(store: str) -> Manifest:
    """Read a finished store's manifest.

    Raises:
        UserError: if the store is absent, unfinished, or of another schema version, or its manifest is not whole.
    """
    path = files.join(store, MANIFEST)
    if not files.exists(path):
        unfinished = files.exists(files.join(store, WORK))
        raise UserError(
            f"{store}: "
            + (
                "unfinished; run encode_latents.py again to finish it"
                if unfinished
                else "no latent store here; give a store's folder, or restore its manifest.json"
            )
        )
    value = records.read_record(path, (KEY,))
    check_version(path, value, SCHEMA_VERSION, "encode again into another --store")
    try:
        value["counts"] = Counts(**value["counts"])
        value["latent_shape"] = tuple(value["latent_shape"])
        value["buckets"] = tuple(tuple(sides) for sides in value.get("buckets", ()))
        value["embeddings"] = {name: tuple(shape) for name, shape in value["embeddings"].items()}
        return Manifest(**value)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}: not a whole manifest of schema version {SCHEMA_VERSION} ({error}); {records.RESTORE}"
        ) from error


def holds_pairs(store: str) -> bool:
    """Say whether any pairs were written, finished or not."""
    return bool(files.list_files(files.join(store, "pairs"), ".parquet"))


def kept_pairs(store: str) -> pa.Table:
    """Read a finished store's kept pairs: pair_id, ascending, and prompt_id, both int64."""
    paths = files_of(store, read_manifest(store), KEPT)
    return tables.read(paths, ["pair_id", "prompt_id"]).sort_by("pair_id")


def images_of_pairs(store: str) -> npt.NDArray[np.int64]:
    """Return the ids of the images that stand in a kept pair of a store of groups, ascending."""
    shown = tables.read(files_of(store, read_manifest(store), KEPT), ["image_0_id", "image_1_id"])
    return np.unique(np.concatenate([shown[name].to_numpy() for name in shown.column_names]))


def shown_images(store: str, part: str = KEPT) -> pa.Table:
    """Read what a store of groups says of its pairs: pair_id, ascending, group_id, image_0_id and image_1_id.

    Args:
        store: its folder.
        part: KEPT, or TIES for the pairs that people tied.

    Raises:
        UserError: if the store has no groups.
    """
    manifest = read_manifest(store)
    if not manifest.counts.images:
        raise UserError(f"--store {store}: its pairs are of no groups, so its images have no ranks; encode rankings")
    columns = ["pair_id", "group_id", "image_0_id", "image_1_id"]
    paths = files_of(store, manifest, part)
    if not paths:  # a store may have no ties
        return grouped_pairs_schema().empty_table().select(columns)
    return tables.read(paths, columns).sort_by("pair_id")


def publish(store: str, manifest: Manifest) -> None:
    """Finish a store: flush what its manifest names, write that, then drop the work files."""
    for name in manifest.files:
        files.flush(files.join(store, name))
    files.write_json(files.join(store, MANIFEST), asdict(manifest))
    files.remove(files.join(store, WORK))


class Described(Protocol):
    """A manifest that describes files."""

    @property
    def files(self) -> Mapping[str, Mapping[str, Any]]:
        """Return bytes and sha256 by path within the folder."""
        ...


def files_of(folder: str, manifest: Described, part: str) -> list[str]:
    """List the files below part of a folder that its manifest names, sorted; whatever else lies there is not read."""
    return [files.join(folder, name) for name in sorted(manifest.files) if name.startswith(f"{part}/")]


def verify(
    store: str,
    manifest: Described,
    contents: bool = False,
    unread: re.Pattern[str] | None = None,
    remedy: str = REPAIR,
) -> None:
    """Compare a folder's files with its manifest: names and sizes, and with contents their hashes.

    Args:
        unread: names of Parquet files that may lie there although the manifest does not name them.
        remedy: what to do about a lost or damaged file, the end of the message's sentence.

    Raises:
        UserError: naming the first file that is missing, differs, or is one too many.
    """
    named_files.refuse(problems(store, manifest, contents, unread, remedy))


def problems(
    store: str,
    manifest: Described,
    contents: bool = True,
    unread: re.Pattern[str] | None = None,
    remedy: str = REPAIR,
) -> Iterator[str]:
    """Yield one sentence for each file that verify would refuse."""
    yield from named_files.unknown(store, manifest.files, unread)
    yield from named_files.problems(store, manifest.files, remedy, contents)


def write_labels(store: str, name: str, table: pa.Table, manifest: Mapping[str, Any]) -> None:
    """Write a label set beside the latents: one Parquet file, then its own manifest."""
    folder = files.join(store, "labels", name)
    sha = files.write_table(files.join(folder, LABELS_FILES[0]), table.cast(LABELS_SCHEMA).sort_by("pair_id"))
    there = [part for part in LABELS_FILES if files.is_file(files.join(folder, part))]
    described = named_files.describe(folder, there)
    about = {
        "schema_version": LABELS_VERSION,
        **manifest,
        "name": name,
        "rows": table.num_rows,
        "sha256": sha,
        "files": described,
    }
    files.write_json(files.join(folder, MANIFEST), about)


def label_sets(store: str) -> list[str]:
    """Name the finished label sets of a store."""
    return sorted({path.split("/")[-2] for path in files.list_files(files.join(store, "labels"), MANIFEST)})


def read_labels_manifest(store: str, name: str, flag: str = "--labels") -> dict[str, Any]:
    """Read what a label set says of itself; flag: that named it, for a refusal's sentence.

    Raises:
        UserError: if the store has no such label set, or it is torn, renamed, of another schema version or store.
    """
    path = files.join(store, "labels", name, MANIFEST)
    if not files.exists(path):
        known = ", ".join(label_sets(store)) or "none"
        raise UserError(f"{flag} {name}: {store} has the label sets {known}; give one of them, or run relabel.py")
    again = labels_remedy(store, name)
    manifest = records.read_record(path, ("sha256",), again)
    check_version(path, manifest, LABELS_VERSION, again, unnamed=1)
    if manifest.get("name", name) != name:
        raise UserError(f"{path}: of a label set that was made as {manifest['name']}; rename its folder back to that")
    _refuse_labels_of_another_store(store, path, manifest, again)
    return manifest


def labels_remedy(store: str, name: str) -> str:
    """Say how a damaged label set is made again."""
    if name == "human":
        return "encode again with --repair"
    return f"delete {files.join(store, 'labels', name)} and run relabel.py again"


def _refuse_labels_of_another_store(store: str, path: str, labels: Mapping[str, Any], again: str) -> None:
    """Compare the contents that a label set was made for with the store's, as pair ids alone may be equal by chance.

    Human label sets of before name no contents, and pass.
    """
    named = labels.get("settings", {}).get("store_hash")
    finished = files.join(store, MANIFEST)
    if named is None or not files.exists(finished):
        return
    own = records.read_record(finished).get("content_hash")
    if named != own:
        raise UserError(f"{path}: labels of another store, of contents {named}, while {store} holds {own}; {again}")


def read_labels(store: str, name: str, flag: str = "--labels") -> tuple[pa.Table, str]:
    """Read a label set and its hash.

    Raises:
        UserError: as find_labels does.
    """
    path, sha = find_labels(store, name, flag)
    return tables.read([path]), sha


def find_labels(store: str, name: str, flag: str = "--labels") -> tuple[str, str]:
    """Return the file of a label set, checked, and its hash.

    Raises:
        UserError: as read_labels_manifest does, or if a file is missing or differs from its manifest, or a Parquet file
            that is no label set's lies beside it.
    """
    manifest = read_labels_manifest(store, name, flag)
    named_files.refuse(labels_problems(store, name, manifest))
    path = files.join(store, "labels", name, LABELS_FILES[0])
    sha = manifest["sha256"]
    if manifest.get("files") is None and files.sha256(path) != sha:  # else it was compared with the others
        raise UserError(f"{path}: its contents differ from its manifest; {labels_remedy(store, name)}")
    return path, sha


def labels_problems(store: str, name: str, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield one sentence for each file of a label set that is missing, differs, or is one too many."""
    folder = files.join(store, "labels", name)
    remedy = labels_remedy(store, name)
    yield from named_files.unknown(folder, LABELS_FILES)
    described = manifest.get("files")
    if described is not None:
        yield from named_files.problems(folder, described, remedy, contents=True)
    elif not files.is_file(files.join(folder, LABELS_FILES[0])):  # of before manifests named files
        yield f"{files.join(folder, LABELS_FILES[0])}: missing, though its manifest names it; {remedy}"


@contextlib.contextmanager
def writer_lock(folder: str) -> Iterator[Callable[[], None]]:
    """Hold a folder for one writer: on a disk until the process ends, on S3 until no more is heard of it.

    Yields:
        What is to be called before a result is published; raises UserError if another job took over meanwhile.

    Raises:
        UserError: if another process is writing there, or no lock can be taken.
    """
    if files.writable(folder).startswith(files.S3):
        from infra.base import (
            object_lock,  # boto3: not on the way of those who have nothing on S3
        )

        lock = object_lock.ObjectLock(folder)
        lock.take()
        for care in (lock.keep, lock.watch):
            threading.Thread(target=care, daemon=True).start()
        try:
            yield lock.check
        finally:
            lock.give_back()
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            still_held = stack.enter_context(disk_lock.held(files.join(folder, ".lock")))
        except disk_lock.HeldError as holder:
            raise UserError(f"{folder}: another job is writing here ({holder}); wait for it or stop it") from None

        def check() -> None:
            try:
                still_held()
            except disk_lock.HeldError as holder:
                raise UserError(
                    f"{folder}: the lock of this job was deleted, and another job began to write here ({holder}); "
                    "wait for that one, then give the same command again"
                ) from None

        yield check
