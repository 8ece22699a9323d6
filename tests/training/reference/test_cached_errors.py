"""Cached errors by hand: a pair gets its own of its draw, winners first; an image lends its error to all pairs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from infra.base.errors import UserError
from training.data import loader
from training.data.grouped import Groups
from training.data.stored import Arrays
from training.reference import reference_errors
from training.reference.reference_errors import CachedErrors, CachedImageErrors

IDS = np.array([3, 5, 8])


def written(folder: Path, *draws: dict[str, list[Any]]) -> Any:
    """Write a file of each draw, and return a manifest of them."""
    files = dict(
        reference_errors.write_draw(str(folder), "base", number, pa.table(columns))
        for number, columns in enumerate(draws)
    )
    return SimpleNamespace(files=files)


def of_pairs(draw: int, first: list[float], second: list[float], ids: np.ndarray = IDS) -> dict[str, list[Any]]:
    count = len(ids)
    columns = {"pair_id": ids.tolist(), "draw": [draw] * count, "timestep": [7] * count}
    return columns | {"error_0": first, "error_1": second}


def opened(folder: Path, manifest: Any) -> CachedErrors:
    return CachedErrors(reference_errors.folder_of(str(folder), "base"), manifest, IDS)


def test_each_row_has_its_own_errors_of_the_draw_that_is_asked_for(tmp_path: Path) -> None:
    manifest = written(tmp_path, of_pairs(0, [1, 2, 3], [4, 5, 6]), of_pairs(1, [10, 20, 30], [40, 50, 60]))
    cached = opened(tmp_path, manifest)
    for _ in range(2):  # a draw may come again
        assert cached.of(np.array([2, 0]), 0).tolist() == [[3, 6], [1, 4]]
        assert cached.of(np.array([1, 2]), 1).tolist() == [[20, 50], [30, 60]]


def test_winners_come_first_in_a_batch(tmp_path: Path) -> None:
    cached = opened(tmp_path, written(tmp_path, of_pairs(0, [1, 2, 3], [4, 5, 6])))
    pairs: Any = SimpleNamespace(reference_errors=cached)
    errors = loader._cached_errors(pairs, np.array([2, 0]), np.array([0, 1], np.uint8), 0)
    assert errors is not None
    assert errors.tolist() == [[3, 4], [6, 1]]  # row 0 winners: slot 0 of the third pair, slot 1 of the first


@pytest.mark.parametrize(
    "columns",
    [
        of_pairs(0, [1, 2], [4, 5], IDS[:2]),
        of_pairs(0, [1, 2, 3], [4, 5, 6], np.array([3, 5, 9])),
        of_pairs(1, [1, 2, 3], [4, 5, 6]),  # in the file of draw 0
        {"image_id": [3, 5, 8], "draw": [0] * 3, "timestep": [7] * 3, "error": [1.0, 2.0, 3.0]},
    ],
)
def test_errors_of_other_pairs_or_draws_are_refused(tmp_path: Path, columns: dict[str, list[Any]]) -> None:
    cached = opened(tmp_path, written(tmp_path, columns))
    with pytest.raises(UserError, match=r"draw-0000\.parquet: does not hold draw 0 of each of the store's 3 pairs"):
        cached.of(np.array([0]), 0)


def test_an_image_lends_its_error_to_every_pair_that_shows_it(tmp_path: Path) -> None:
    # Of four images the second stands in no pair, so it has no error.
    groups = Groups(
        images=Arrays({}),
        image_ids=np.array([10, 11, 12, 13]),
        shown=np.array([[3, 0], [2, 3], [0, 2]], np.uint32),
        pair_groups=np.array([1, 1, 1]),
    )
    columns: dict[str, list[Any]] = {
        "image_id": [10, 12, 13],
        "draw": [0] * 3,
        "timestep": [7] * 3,
        "error": [0.5, 0.25, 2.0],
    }
    manifest = written(tmp_path, columns)
    cached = CachedImageErrors(reference_errors.folder_of(str(tmp_path), "base"), manifest, groups)
    assert cached.of(np.array([0, 1, 2]), 0).tolist() == [[2.0, 0.5], [0.25, 2.0], [0.5, 0.25]]
