"""The order of pairs in training: a computed permutation, a pure function of (seed, epoch).

Nothing is stored and nothing is remembered: batch b of epoch e is permutation(seed, e)[b*G : (b+1)*G]. So a run resumes
at any step in O(1), and a billion pairs need no more memory than a batch. The ragged end of an epoch, the last n mod G
pairs of its permutation, is left out; every epoch leaves out others.

Pairs of several shapes (--buckets of the encoder) are put in order by bucket: each bucket has a permutation of its
own, which is cut into units of one micro-batch, and the units of all buckets are permuted. So a micro-batch has one
shape, and batch b of an epoch is again its places b*G to (b+1)*G. A bucket's ragged end is left out too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ROUNDS = 6


def permute(
    indices: npt.NDArray[np.uint64], size: int, seed: int, epoch: int, name: str = ""
) -> npt.NDArray[np.uint64]:
    """Map positions of an epoch's order to rows, one to one: a Feistel network with cycle walking.

    Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains": a cipher on the next larger even number of bits,
    applied again to every value that fell outside 0..size-1 until it falls inside.

    Args:
        indices: [n] uint64 in 0..size-1.
        size: number of rows.
        name: of the permutation, where an epoch has several.

    Returns:
        [n] uint64 in 0..size-1.
    """
    half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half_bits)) - 1)
    keys = _round_keys(seed, f"{epoch}/{name}" if name else str(epoch))
    values = _encipher(indices.astype(np.uint64), half_bits, mask, keys)
    outside = values >= size
    while outside.any():
        values[outside] = _encipher(values[outside], half_bits, mask, keys)
        outside = values >= size
    return values


def _round_keys(seed: int, epoch: str) -> npt.NDArray[np.uint64]:
    digest = hashlib.blake2b(f"order/{seed}/{epoch}".encode(), digest_size=8 * ROUNDS).digest()
    return np.frombuffer(digest, dtype="<u8").astype(np.uint64)


def _encipher(
    values: npt.NDArray[np.uint64], half_bits: np.uint64, mask: np.uint64, keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    left = values >> half_bits
    right = values & mask
    for key in keys:
        mixed = left ^ (_mix(right ^ key) & mask)
        left = right
        right = mixed
    return (left << half_bits) | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scatter 64 bits (the finaliser of SplitMix64, Steele et al. 2014); wrap-around is meant."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def batch_rows(step: int, pairs: int, global_batch: int, seed: int) -> tuple[int, npt.NDArray[np.int64]]:
    """Return the epoch of a step and the rows of its global batch, in order.

    Args:
        step: steps already taken; 0 for the first batch.
        pairs: rows in the store.
        global_batch: G, pairs per optimizer step over all ranks.

    Returns:
        The epoch, and [G] int64 rows in 0..pairs-1.
    """
    epoch, batch = divmod(step, pairs // global_batch)
    positions = np.arange(batch * global_batch, (batch + 1) * global_batch, dtype=np.uint64)
    return epoch, permute(positions, pairs, seed, epoch).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Rows by bucket: those of one shape lie together."""

    rows: npt.NDArray[np.uint32]  # [n], bucket after bucket, ascending within each
    counts: tuple[int, ...]  # rows of each bucket; none is 0

    @classmethod
    def of(cls, buckets: npt.NDArray[np.uint8]) -> Streams:
        """Sort rows by their buckets [n]."""
        _, counts = np.unique(buckets, return_counts=True)
        return cls(rows=np.argsort(buckets, kind="stable").astype(np.uint32), counts=tuple(counts.tolist()))


def usable(counts: Sequence[int], unit: int) -> int:
    """Return how many pairs of an epoch fill whole units; with one bucket all do, as its batches are cut anywhere.

    Args:
        counts: pairs of each bucket.
        unit: pairs of one micro-batch.
    """
    return counts[0] if len(counts) == 1 else sum(count // unit * unit for count in counts)


def steps_an_epoch(counts: Sequence[int], global_batch: int, unit: int) -> int:
    """Return how many steps an epoch has; arguments as in usable, and G."""
    return usable(counts, unit) // global_batch


def step_rows(
    step: int, streams: Streams, global_batch: int, unit: int, seed: int
) -> tuple[int, npt.NDArray[np.int64]]:
    """Return the epoch of a step and the rows of its global batch, in order, where rows have several shapes.

    With one bucket it is batch_rows, bit for bit. Each aligned unit of the batch is of one bucket.

    Args:
        step: steps already taken; 0 for the first batch.
        global_batch: G, pairs per optimizer step over all ranks.
        unit: pairs of one micro-batch.
    """
    if len(streams.counts) == 1:
        return batch_rows(step, streams.counts[0], global_batch, seed)
    counts = np.array(streams.counts, np.uint64)
    units = counts // np.uint64(unit)
    epoch, batch = divmod(step, steps_an_epoch(streams.counts, global_batch, unit))
    positions = np.arange(batch * global_batch, (batch + 1) * global_batch, dtype=np.uint64)
    chosen = permute(positions // np.uint64(unit), int(units.sum()), seed, epoch, "units")
    bucket = np.searchsorted(np.cumsum(units), chosen, side="right")
    first_unit = np.cumsum(units) - units
    first_row = np.cumsum(counts) - counts
    places = (chosen - first_unit[bucket]) * np.uint64(unit) + positions % np.uint64(unit)
    for one in np.unique(bucket):
        here = bucket == one
        places[here] = permute(places[here], int(counts[one]), seed, epoch, f"bucket {one}") + first_row[one]
    return epoch, streams.rows[places.astype(np.int64)].astype(np.int64)
