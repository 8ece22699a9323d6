"""Runs a job's steps in this process, without Ray Data: for work that is itself one of many tasks side by side.

Starting Ray Data's actors takes longer than a sweep's few hundred images. Blocks are cut and written as engine.run does
it, so the same command goes on where whole blocks ended; what is written is the record, there is no other checkpoint.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from infra.base import files, tables
from infra.base.errors import UserError
from pipelines.engine.jobs import Job


def run(job: Job) -> None:
    """Run a job to its end; rows whose ids are among the written ones are not computed again.

    Raises:
        UserError: a step's own; or if the job was begun on Ray Data, whose unfinished files only that can tell apart.
        ValueError: if the job parts its rows by a column, which engine.run alone does.
    """
    if job.partition_by is not None:
        raise ValueError(f"{job.output}: rows parted by {job.partition_by} are written by engine.run alone")
    if files.list_files(job.checkpoint, ".parquet"):
        raise UserError(f"{job.output}: begun by a job of its own; finish it with that, or delete it")
    written = files.list_files(job.output, ".parquet")
    rows = pa.concat_tables([piece for path in job.source for piece in job.read(path, job.columns)])
    if written:
        done = tables.read_folder(job.output, [job.id_column])[job.id_column].to_numpy()
        rows = rows.filter(pa.array(~np.isin(job.row_ids(rows), done)))
    steps = [(step.function(**step.arguments), step.batch_size) for step in job.steps] if rows.num_rows else []
    for number, start in enumerate(range(0, rows.num_rows, job.rows_per_block), len(written)):
        block = rows.slice(start, job.rows_per_block)
        for step, size in steps:
            batches = range(0, block.num_rows, size or block.num_rows)
            block = pa.concat_tables([step(block.slice(first, size)) for first in batches])
        files.write_table(files.join(job.output, f"part-{number:05d}.parquet"), block)
