"""A store's kept pairs in the order of their ids, whose rows are read at random: from the store, or from a copy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from pipelines.latents import schemas, store

if TYPE_CHECKING:
    from training.data.grouped import Groups

Read = Callable[[], Mapping[str, schemas.Values]]
Mirrored = npt.NDArray[np.bool_]  # [rows]


class Rows(Protocol):
    """Rows of several columns."""

    @property
    def far(self) -> bool:
        """Say whether a row takes a server's answer, so that many are best asked for ahead."""
        ...

    def begin(self, rows: npt.NDArray[np.int64], mirrored: Mirrored | None = None) -> Read:
        """Begin to read rows; what is returned waits for them: [len(rows), ...] by column.

        Args:
            mirrored: for which rows the columns of mirrored images are wanted in place of the others; None: all
                columns are.

        Raises:
            UserError: naming the file, if one is missing or holds other bytes than were stored; here or while waiting.
        """
        ...


class Errors(Protocol):
    """Cached reference errors."""

    def of(self, rows: npt.NDArray[np.int64], draw: int) -> npt.NDArray[np.float32]:
        """Return the errors of slots 0 and 1 of some rows at a draw: [len(rows), 2]."""
        ...


@dataclass(frozen=True, kw_only=True)
class StoredPairs:
    """A store's kept pairs in the order of their ids."""

    manifest: store.Manifest
    pair_ids: npt.NDArray[np.int64]  # [n], ascending, memory-mapped
    prompt_rows: npt.NDArray[np.unsignedinteger]  # [n], row of each pair's caption in prompts
    latents: Rows  # of the store's latent columns, each [C or 2C, H, W], with buckets [values of the largest]
    prompts: Rows  # of its embedding columns
    empty_prompt: int  # row of the empty caption in prompts
    reference_errors: Errors | None = None  # where they are cached
    buckets: npt.NDArray[np.uint8] | None = None  # [n], each pair's place in manifest.buckets; None: all are squares
    groups: Groups | None = None  # of a store of groups

    @property
    def draw_keys(self) -> npt.NDArray[np.int64]:
        """Return what each pair's draws are keyed by, [n]: its id, or its group, whose pairs share their draws."""
        return self.pair_ids if self.groups is None else self.groups.pair_groups


@dataclass(frozen=True)
class Arrays:
    """Rows of arrays, in memory or mapped."""

    columns: Mapping[str, schemas.Values]
    far: bool = False

    def begin(self, rows: npt.NDArray[np.int64], mirrored: Mirrored | None = None) -> Read:
        """Read rows when they are waited for."""
        return functools.partial(self.read, rows, mirrored)

    def read(self, rows: npt.NDArray[np.int64], mirrored: Mirrored | None = None) -> Mapping[str, schemas.Values]:
        """Return rows of each column."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return columns if mirrored is None else turned(columns, mirrored)


def turned(columns: Mapping[str, schemas.Values], mirrored: Mirrored) -> dict[str, schemas.Values]:
    """Take each row's values from the columns of mirrored images where that is wanted, and name them as the others."""
    chosen = {}
    for name in [name for name in columns if not name.endswith(schemas.MIRRORED)]:
        plain = columns[name]
        flipped = columns[f"{name}{schemas.MIRRORED}"]
        chosen[name] = np.where(mirrored.reshape(-1, *[1] * (plain.ndim - 1)), flipped, plain)
    return chosen


def latent_shape(manifest: store.Manifest, bucket: int | None = None) -> tuple[int, int, int]:
    """Return the shape of one latent as it is stored: (C, H, W), or (2C, H, W) of mean and standard deviation.

    Args:
        bucket: its place in manifest.buckets; None for squares.
    """
    channels, height, width = manifest.shape_of(bucket)
    return channels * (2 if manifest.posterior == "moments" else 1), height, width


def area(manifest: store.Manifest, bucket: int) -> float:
    """Return the area of a bucket's latents by that of the square's."""
    _, height, width = manifest.shape_of(bucket)
    _, square, _ = manifest.latent_shape
    return height * width / square**2


def row_shape(manifest: store.Manifest) -> tuple[int, ...]:
    """Return the shape of a latent column's rows: that of a latent, or with buckets the values of the largest."""
    return (manifest.row_values,) if manifest.buckets else latent_shape(manifest)


def split_slots(columns: Sequence[str], latents: schemas.Values) -> Arrays:
    """Take latents [n, slots, C, H, W] for rows of their columns."""
    return Arrays({name: latents[:, slot] for slot, name in enumerate(columns)})
