"""Jobs run in this process: blocks and batches as the engine cuts them, resume by what is written, and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.base.errors import UserError
from pipelines.engine import in_process
from pipelines.engine.jobs import Job, Step


class Square:
    """Squares the column x; dies at the batch that holds a given value."""

    seen: ClassVar[list[list[int]]] = []

    def __init__(self, dies_at: int | None = None) -> None:
        self.dies_at = dies_at

    def __call__(self, table: pa.Table) -> pa.Table:
        values = table["x"].to_pylist()
        if self.dies_at in values:
            raise RuntimeError
        self.seen.append(values)
        return pa.table({"x": values, "squared": [value**2 for value in values]})


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Return a job of ten numbers from two files, in blocks of four and batches of three."""
    Square.seen = []
    for name, numbers in (("a", range(6)), ("b", range(6, 10))):
        pq.write_table(pa.table({"x": list(numbers), "unused": list(numbers)}), tmp_path / f"{name}.parquet")
    return Job(
        source=[str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")],
        columns=["x"],
        steps=[Step(function=Square, batch_size=3)],
        output=str(tmp_path / "out"),
        checkpoint=str(tmp_path / "done"),
        id_column="x",
        row_ids=lambda table: table["x"].to_numpy(),
        rows_per_block=4,
        name="numbers",
        rows=10,
    )


def written(job: Job) -> list[Any]:
    return [pq.read_table(path).to_pydict() for path in sorted(Path(job.output).iterdir())]


def test_blocks_of_four_in_batches_of_three(job: Job) -> None:
    in_process.run(job)
    assert Square.seen == [[0, 1, 2], [3], [4, 5, 6], [7], [8, 9]]
    assert [part["x"] for part in written(job)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert np.array_equal(written(job)[1]["squared"], [16, 25, 36, 49])


def test_a_killed_run_goes_on_after_its_last_block_and_a_finished_one_does_nothing(job: Job) -> None:
    with pytest.raises(RuntimeError):
        in_process.run(replace(job, steps=[Step(function=Square, arguments={"dies_at": 7}, batch_size=3)]))
    assert [part["x"] for part in written(job)] == [[0, 1, 2, 3]]
    Square.seen = []
    in_process.run(job)
    assert Square.seen == [[4, 5, 6], [7], [8, 9]]
    assert [part["x"] for part in written(job)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    in_process.run(job)
    assert len(Square.seen) == 3


def test_what_ray_data_began_is_refused_by_its_folder(job: Job) -> None:
    Path(job.checkpoint).mkdir()
    pq.write_table(pa.table({"x": [0]}), f"{job.checkpoint}/part.parquet")
    with pytest.raises(UserError, match=f"^{job.output}: begun by a job of its own"):
        in_process.run(job)
    assert not Path(job.output).exists()


def test_parts_by_a_column_are_not_for_this(job: Job) -> None:
    with pytest.raises(ValueError, match=f"{job.output}: rows parted by x are written by engine.run alone"):
        in_process.run(replace(job, partition_by="x"))
