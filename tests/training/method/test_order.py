"""The order is a permutation, a function of (seed, epoch), and costs no memory."""

from __future__ import annotations

import numpy as np
import pytest

from training.method.order import Streams, batch_rows, permute, step_rows


@pytest.mark.parametrize("size", [1, 2, 3, 17, 64, 1000, 4097])
def test_permute_is_one_to_one(size: int) -> None:
    values = permute(np.arange(size, dtype=np.uint64), size, seed=3, epoch=5)
    assert sorted(values.tolist()) == list(range(size))


def test_permute_depends_on_seed_and_epoch_alone() -> None:
    indices = np.arange(500, dtype=np.uint64)
    first = permute(indices, 500, 1, 0)
    assert np.array_equal(first, permute(indices, 500, 1, 0))
    assert not np.array_equal(first, permute(indices, 500, 1, 1))
    assert not np.array_equal(first, permute(indices, 500, 2, 0))
    # A part of the order is computed without the rest.
    assert np.array_equal(permute(indices[100:110], 500, 1, 0), first[100:110])


def test_known_orders_stay() -> None:
    # A change here changes which pairs a resumed run sees, and which draws cached reference errors are of.
    ten = np.arange(10, dtype=np.uint64)
    assert permute(ten, 10, seed=0, epoch=0).tolist() == [1, 6, 4, 2, 8, 0, 9, 3, 7, 5]
    assert permute(ten, 10, seed=0, epoch=1).tolist() == [6, 9, 7, 4, 5, 1, 8, 0, 2, 3]
    assert permute(ten, 10, seed=0, epoch=0, name="units").tolist() == [0, 9, 7, 8, 2, 3, 4, 5, 1, 6]
    # Two buckets of five, units of two: four units an epoch, so two steps of four pairs.
    streams = Streams.of(np.array([0, 1, 0, 1, 1, 0, 0, 1, 0, 1], np.uint8))
    steps = [step_rows(step, streams, 4, 2, seed=0) for step in range(3)]
    assert [(epoch, rows.tolist()) for epoch, rows in steps] == [
        (0, [0, 2, 4, 1]),
        (0, [7, 9, 8, 6]),
        (1, [6, 8, 3, 9]),
    ]


def test_permute_scatters() -> None:
    # Of a random order, about 1 in n neighbours stay neighbours: 0 to 5 of 4096, not hundreds.
    order = permute(np.arange(4096, dtype=np.uint64), 4096, 0, 0).astype(np.int64)
    assert (np.abs(np.diff(order)) == 1).sum() < 12


def test_permute_of_a_billion_rows_touches_only_what_is_asked() -> None:
    rows = permute(np.arange(2048, dtype=np.uint64), 10**9, 0, 7)
    assert len(set(rows.tolist())) == 2048
    assert rows.max() < 10**9


def test_batches_of_an_epoch_are_disjoint_and_the_ragged_end_is_left_out() -> None:
    # 103 pairs, batches of 10: steps 0..9 are epoch 0, 3 pairs are left out, step 10 begins epoch 1.
    epochs, rows = zip(*(batch_rows(step, 103, 10, seed=0) for step in range(11)), strict=True)
    assert epochs == (0,) * 10 + (1,)
    seen = np.concatenate(rows[:10])
    assert len(set(seen.tolist())) == 100
    assert not np.array_equal(rows[0], rows[10])
