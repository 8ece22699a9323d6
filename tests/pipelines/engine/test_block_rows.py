"""Rows under the same ids that are not those that the job wrote: noticed before they are published, computed again."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.base import files
from pipelines.engine import block_rows, in_process, progress, resumable
from pipelines.engine.jobs import Job, Step


class Squares:
    """Step: adds squares."""

    def __call__(self, table: pa.Table) -> pa.Table:
        numbers = table["x"].to_pylist()
        parity = pa.array([number % 2 for number in numbers])
        return pa.table({"x": numbers, "squared": [number**2 for number in numbers], "odd": parity})


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Write six numbers' squares in blocks of four, parted by parity."""
    pq.write_table(pa.table({"x": range(6)}), tmp_path / "in.parquet")
    job = Job(
        source=[str(tmp_path / "in.parquet")],
        columns=["x"],
        steps=[Step(function=Squares)],
        output=str(tmp_path / "out"),
        checkpoint=str(tmp_path / "done"),
        id_column="x",
        row_ids=lambda table: table["x"].to_numpy(),
        rows_per_block=4,
        name="numbers",
        rows=6,
        partition_by="odd",
    )
    in_process.run(job)
    return job


def part(job: Job, folder: str = "odd=0") -> Path:
    return next(path for path in Path(job.output, folder).iterdir() if pq.read_metadata(path).num_rows == 2)


def put_others(path: Path) -> None:
    """Put rows of another job under the same ids, as its file has them."""
    table = pq.ParquetFile(path).read()
    pq.write_table(table.set_column(1, "squared", pa.array([0, 0])), path)


def test_rows_as_they_were_written_pass(job: Job) -> None:
    squares = block_rows.read(job.output, job.checkpoint).sort_by("x")
    assert squares["squared"].to_pylist() == [0, 1, 4, 9, 16, 25]
    assert len(progress.committed(job.checkpoint)) == 2


def test_other_rows_under_the_same_ids_are_refused_and_their_block_alone_is_forgotten(job: Job) -> None:
    changed = part(job)
    put_others(changed)
    told = f"^{changed}: not as this job wrote it; the same command computes its rows again$"
    with pytest.raises(block_rows.AlteredError, match=told):
        block_rows.read(job.output, job.checkpoint)
    assert progress.finished_rows(job.checkpoint) == 2  # the block of 4 and 5 stays
    in_process.run(job)
    squares = block_rows.read(job.output, job.checkpoint).sort_by("x")
    assert squares["squared"].to_pylist() == [0, 1, 4, 9, 16, 25]


def test_a_pass_computes_them_again_at_once(job: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = part(job)
    put_others(changed)
    published: list[pa.Table] = []
    resumable.finish(
        resumable.Pass(
            work=str(tmp_path / "work"),
            settings={},
            is_finished=lambda: False,
            lock=lambda: contextlib.nullcontext(lambda: None),
            run=lambda: in_process.run(job),
            count=lambda: block_rows.read(job.output, job.checkpoint),
            publish=published.append,
        )
    )
    assert published[0].sort_by("x")["squared"].to_pylist() == [0, 1, 4, 9, 16, 25]
    assert f"{changed}: not as this job wrote it" in capsys.readouterr().err


def test_blocks_of_earlier_versions_have_no_notes_and_are_not_compared(job: Job) -> None:
    files.remove(f"{job.checkpoint}{block_rows.NOTES}")
    put_others(part(job))
    assert block_rows.read(job.output, job.checkpoint).num_rows == 6


def test_a_lost_part_of_a_block_is_told(job: Job) -> None:
    lost = part(job, "odd=1")
    lost.unlink()
    with pytest.raises(block_rows.AlteredError, match=str(lost)):
        block_rows.read(job.output, job.checkpoint)
