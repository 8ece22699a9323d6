"""The latent store's contract: its folders and manifest; how it is opened, checked and published.

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

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base import files, named_files, records, tables
from infra.base.errors import UserError
from infra.base.row_digest import as_text, rows_digest
from infra.base.versions import KEY, check_version
from pipelines.latents import schemas

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SOURCE = "source.json"  # among the work files: what the source's files held when the encoding began
WORK = files.WORK  # checkpoints and intermediate files of an unfinished store
KEPT = "pairs/status=kept"
TIES = "pairs/status=tie"
IMAGES = "images"  # of a store of groups
KEPT_IMAGES = "images/status=kept"
REPAIR = "give the encoder's command again with --repair, or restore it from a copy"


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


def describe(content: bytes, table: pa.Table) -> dict[str, Any]:
    """Measure one Parquet file of a store: bytes, sha256, rows, and a digest of its rows that ignores their order."""
    return {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "rows": table.num_rows,
        "digest": as_text(rows_digest(table)),
    }


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
                else "no latent store here; give a store's folder, make one with encode_latents.py, or restore its "
                "manifest.json"
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
        return schemas.grouped_pairs_schema().empty_table().select(columns)
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
