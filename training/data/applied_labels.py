"""Pairs of a store with a label set applied: which are decided, and which slot won."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infra.base import tables
from infra.base.errors import UserError
from pipelines.latents import label_files
from training.data.stored import StoredPairs
from training.method.order import Streams

UNDECIDED = 2  # beside 0 and 1 for the winner's slot


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """A store's pairs with a label set applied: the rows that it decides, and which slot won."""

    pairs: StoredPairs
    rows: npt.NDArray[np.uint32]  # [m] rows of pairs, in the order of their ids
    winners: npt.NDArray[np.uint8]  # [m] 0 or 1
    preferred: npt.NDArray[np.float32] | None  # [m] P(the winner is preferred); None: 1, as but for soft labels
    labels_hash: str

    @functools.cached_property
    def streams(self) -> Streams | None:
        """Return the rows by bucket; None where the store has one shape."""
        return None if self.pairs.buckets is None else Streams.of(self.pairs.buckets[self.rows])

    def buckets(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8] | None:
        """Return the buckets of positions in self.rows; None where the store has one shape."""
        return None if self.pairs.buckets is None else self.pairs.buckets[self.rows[rows]]


def apply_labels(pairs: StoredPairs, path: str, name: str, soft: bool = False) -> Labelled:
    """Apply a label set, with its probabilities where soft; ties and pairs it does not know are left out.

    A label set is read piece by piece: of a pair no more is held than what Labelled says.

    Raises:
        UserError: if it decides no pair.
    """
    file, labels_hash = label_files.find_labels(path, name)
    count = len(pairs.pair_ids)
    winners = np.full(count, UNDECIDED, np.uint8)
    preferred = np.ones(count, np.float32) if soft else None
    for batch in tables.batches(file, ["pair_id", "label_0", *(["probability_0"] if soft else [])]):
        label = batch["label_0"].to_numpy(zero_copy_only=False)  # a null is NaN
        places, known = _places(pairs.pair_ids, batch["pair_id"].to_numpy())
        known &= (label == 0.0) | (label == 1.0)
        winners[places[known]] = np.where(label[known] == 1.0, 0, 1)
        if preferred is not None:
            first = batch["probability_0"].to_numpy(zero_copy_only=False)[known]
            preferred[places[known]] = np.where(label[known] == 1.0, first, 1 - first)
    rows = np.flatnonzero(winners != UNDECIDED).astype(np.uint32)
    if not len(rows):
        raise UserError(f"--labels {name}: decides none of the {count} pairs of {path}; give another label set")
    if len(rows) < count:
        winners = winners[rows]
        preferred = None if preferred is None else preferred[rows]
    return Labelled(
        pairs=pairs,
        rows=rows,
        winners=winners,
        preferred=preferred,
        labels_hash=labels_hash,
    )


def _places(
    known: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Find ids among the known ones, which ascend: the place of each, and whether it is there."""
    begin = int(np.searchsorted(known, ids[0]))
    if np.array_equal(known[begin : begin + len(ids)], ids):  # the usual case: each pair has a label
        return np.arange(begin, begin + len(ids)), np.ones(len(ids), bool)
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return places, known[places] == ids


def as_stored(pairs: StoredPairs) -> Labelled:
    """Take every pair without labels: slot 0 stands where winners do."""
    count = len(pairs.pair_ids)
    rows = np.arange(count, dtype=np.uint32)
    return Labelled(
        pairs=pairs,
        rows=rows,
        winners=np.zeros(count, np.uint8),
        preferred=None,
        labels_hash="",
    )
