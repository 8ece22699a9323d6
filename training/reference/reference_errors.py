"""Cached reference errors: what STORE/reference/NAME holds, and how training reads it, a draw at a time.

reference/NAME/draw-0000.parquet   pair_id, draw, timestep, error_0, error_1 of every kept pair, in the order of its id
reference/NAME/manifest.json       written last; without it nothing is there

Of a store of groups, a file has image_id, draw, timestep and error of every image that stands in a kept pair.

Slots are as stored, not winner and loser, so that relabelling leaves the errors as they are. Draw k is what training
draws in its epoch k.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base import files, records, tables
from infra.base.errors import UserError
from infra.base.versions import check_version
from pipelines.latents import store
from pipelines.latents.store_check import DRAW, reference_remedy
from training.data.grouped import Groups
from training.data.stored import StoredPairs, area

if TYPE_CHECKING:
    import torch

    from training.backbones.backbone import Backbone

SCHEMA = pa.schema(
    [
        ("pair_id", pa.int64()),
        ("draw", pa.int32()),
        ("timestep", pa.int32()),
        ("error_0", pa.float32()),
        ("error_1", pa.float32()),
    ]
)
IMAGES_SCHEMA = pa.schema(  # of a store of groups: an error an image, which all its pairs share
    [("image_id", pa.int64()), ("draw", pa.int32()), ("timestep", pa.int32()), ("error", pa.float32())]
)
SCHEMA_VERSION = 1
PROBES = 4096  # uniform numbers that the map to timesteps is told apart by


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the errors; batch size and precision, like the hardware, move only their last bits."""

    network: str  # the reference's fingerprint; those of the frozen parts are the store's
    store_hash: str
    seed: int
    caption_dropout: float
    prediction_type: str
    schedule: str  # hash of noise schedule and map to timesteps
    batch_size: int  # pairs per forward pass
    precision: str
    base_precision: str = "float32"  # of the reference's weights; those of earlier versions were float32

    @classmethod
    def of(
        cls,
        reference: Backbone,
        manifest: store.Manifest,
        seed: int,
        caption_dropout: float,
        batch_size: int,
        precision: str,
        base_precision: str,
        before: Settings | None = None,
    ) -> Settings:
        """Collect the settings of a reference on a store's pairs.

        Args:
            before: those to be compared with, whose fingerprint may be of an earlier rule.
        """
        from pipelines.latents import identity  # which loads the libraries of networks

        return cls(
            network=identity.like(before.network if before else None, reference.folder, reference.network_folder),
            store_hash=manifest.content_hash,
            seed=seed,
            caption_dropout=caption_dropout,
            prediction_type=reference.prediction_type,
            schedule=_schedule_hash(reference, precision, manifest),
            batch_size=batch_size,
            precision=precision,
            base_precision=base_precision,
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What cached errors say of themselves."""

    settings: Settings
    model: str
    revision: str | None
    draws: int
    pairs: int
    hardware: tuple[str, ...]  # all that took part
    config: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]] = field(repr=False)  # bytes, sha256 and rows by name, one file per draw
    schema_version: int = SCHEMA_VERSION
    images: int = 0  # of a store of groups, which has an error an image; else 0


def _schedule_hash(backbone: Backbone, precision: str, manifest: store.Manifest) -> str:
    timesteps = [backbone.timestep(probe / PROBES) for probe in range(PROBES)]
    decisive: tuple[Any, ...] = (backbone.schedule(), backbone.timesteps, timesteps)
    areas = {area(manifest, bucket) for bucket in range(len(manifest.buckets))} - {1.0}
    if areas:
        decisive += ([backbone.timestep(probe / PROBES, one) for one in sorted(areas) for probe in range(PROBES)],)
    if backbone.rounds_time and precision != "float32":
        decisive += ("noise at the rounded level",)  # errors of 0.1.0 are those of other noise
    return hashlib.sha256(repr(decisive).encode()).hexdigest()


def hardware(device: torch.device) -> str:
    """Name what computes, as far as last bits depend on it: the kind of device, or the CPU's vectors, and torch."""
    import torch

    cuda = device.type == "cuda"
    kind = torch.cuda.get_device_name(device) if cuda else f"CPU with {torch.backends.cpu.get_cpu_capability()}"
    return f"{kind}, torch {torch.__version__}"


def folder_of(path: str, name: str) -> str:
    """Name the folder of cached errors in a store."""
    return files.join(path, "reference", name)


def read_manifest(path: str, name: str) -> Manifest:
    """Read what a store's cached errors say of themselves.

    Raises:
        UserError: if the store has none of that name, or it is of another schema version or not whole.
    """
    place = files.join(folder_of(path, name), store.MANIFEST)
    if not files.exists(place):
        known = [other.split("/")[-2] for other in files.list_files(files.join(path, "reference"), store.MANIFEST)]
        raise UserError(
            f"--reference {name}: {path} has the reference errors {', '.join(known) or 'none'}; run "
            "encode_reference.py to compute them"
        )
    again = reference_remedy(folder_of(path, name))
    value = records.read_record(place, ("settings", "hardware", "files"), again)
    check_version(place, value, SCHEMA_VERSION, again, unnamed=1)
    try:
        settings = Settings(**value.pop("settings"))
        hardware_used = tuple(value.pop("hardware"))
        return Manifest(settings=settings, hardware=hardware_used, **value)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{place}: not a whole manifest of schema version {SCHEMA_VERSION} ({error}); {again}"
        ) from error


def write_draw(path: str, name: str, draw: int, table: pa.Table) -> tuple[str, dict[str, Any]]:
    """Write the errors of one draw, and return the file's name and what the manifest tells of it."""
    file = f"draw-{draw:04d}.parquet"
    target = files.join(folder_of(path, name), file)
    schema = IMAGES_SCHEMA if "image_id" in table.column_names else SCHEMA
    sha = files.write_table(target, table.select(schema.names).cast(schema))
    filesystem, inner = files.open_filesystem(target)
    size = filesystem.get_file_info(inner).size
    return file, {"bytes": size, "sha256": sha, "rows": table.num_rows}


def write_manifest(path: str, name: str, manifest: Manifest) -> None:
    """Finish cached errors."""
    files.write_json(files.join(folder_of(path, name), store.MANIFEST), asdict(manifest))


def verify(path: str, name: str, manifest: Manifest, contents: bool = False) -> None:
    """Compare cached errors with their manifest, as store.verify does; draws beyond it are of an unfinished pass.

    Raises:
        UserError: naming the first file that is missing, differs, or is one too many.
    """
    folder = folder_of(path, name)
    store.verify(folder, manifest, contents, unread=DRAW, remedy=reference_remedy(folder))


def attach(pairs: StoredPairs, path: str, name: str | None) -> StoredPairs:
    """Add cached errors to a store's pairs; without a name there are none.

    Raises:
        UserError: if the store has none of that name.
    """
    if name is None:
        return pairs
    manifest = read_manifest(path, name)
    if pairs.groups is not None:
        errors = CachedImageErrors(folder_of(path, name), manifest, pairs.groups)
        return replace(pairs, reference_errors=errors)
    return replace(pairs, reference_errors=CachedErrors(folder_of(path, name), manifest, pairs.pair_ids))


class CachedErrors:
    """Errors read a draw at a time: training takes the draws in order, each for an epoch."""

    key = "pair_id"
    columns: tuple[str, ...] = ("error_0", "error_1")

    def __init__(self, folder: str, manifest: Manifest, ids: npt.NDArray[np.int64]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.ids = ids
        self.held: tuple[int, npt.NDArray[np.float32]] | None = None  # a draw and its errors: 8 bytes a pair

    def of(self, rows: npt.NDArray[np.int64], draw: int) -> npt.NDArray[np.float32]:
        """Return the errors of slots 0 and 1 of some rows at a draw: [len(rows), 2].

        Raises:
            UserError: naming the draw's file, if it is missing, differs from the manifest's hash, or is of other pairs.
        """
        return self.at(draw)[rows]

    def at(self, draw: int) -> npt.NDArray[np.float32]:
        """Return a draw's errors, [len(ids), columns]; see of."""
        if self.held is None or self.held[0] != draw:
            self.held = None  # so that no two draws are in memory
            self.held = (draw, self._read(draw))
        return self.held[1]

    def _read(self, draw: int) -> npt.NDArray[np.float32]:
        name = sorted(self.manifest.files)[draw]
        path = files.join(self.folder, name)
        if not files.is_file(path):
            raise UserError(f"{path}: missing, though its manifest names it")
        if files.sha256(path) != self.manifest.files[name]["sha256"]:
            raise UserError(f"{path}: its contents differ from its manifest")
        errors = np.empty((len(self.ids), len(self.columns)), np.float32)
        what = self.key.removesuffix("_id")
        others = UserError(f"{path}: does not hold draw {draw} of each of the store's {len(errors)} {what}s")
        if self.key not in tables.column_names(path):
            raise others
        begin = 0
        for batch in tables.batches(path, [self.key, "draw", *self.columns]):
            here = slice(begin, begin + batch.num_rows)
            begin += batch.num_rows
            same = np.array_equal(batch[self.key].to_numpy(), self.ids[here])
            if not same or (batch["draw"].to_numpy() != draw).any():
                raise others
            for place, name in enumerate(self.columns):
                errors[here, place] = batch[name].to_numpy()
        if begin != len(errors):
            raise others
        return errors


class CachedImageErrors(CachedErrors):
    """Errors of the images of a store of groups: both slots of a pair take theirs from them."""

    key = "image_id"
    columns = ("error",)

    def __init__(self, folder: str, manifest: Manifest, groups: Groups) -> None:
        images, _ = groups.images_of_pairs()
        super().__init__(folder, manifest, groups.image_ids[images])
        self.shown = groups.shown
        self.places = np.zeros(len(groups.image_ids), np.int64)  # of an image's error, by its row among all images
        self.places[images] = np.arange(len(images))

    def of(self, rows: npt.NDArray[np.int64], draw: int) -> npt.NDArray[np.float32]:
        """Return the errors of slots 0 and 1 of some rows at a draw: [len(rows), 2]."""
        return self.at(draw)[self.places[self.shown[rows]], 0]
