"""What a batch job is, whatever runs it: files, steps, and what each copy of a step needs.

A step is any class whose instances map one Arrow table to another. on_ray.py runs a job on Ray Data, and in_process.py
runs it in the process that asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from infra.base import metrics, tables

SMALL_CPUS = 0.25  # reads, writes and cheap steps: with whole cores a two-core cluster waits for itself forever


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step and what one copy of it needs."""

    function: type
    arguments: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None  # rows; None: whole blocks
    actors: int = 0  # copies that live as long as the job; 0: stateless tasks
    least: int | None = None  # copies to begin with, more up to `actors` as the cluster has room; None: all of them
    tasks: int | None = None  # stateless tasks at once, at most; None: as many as fit
    cpus: float = SMALL_CPUS
    gpus: float = 0.0
    accelerator: str | None = None  # the kind of node that copies want, as Ray names it


@dataclass(frozen=True, kw_only=True)
class Job:
    """A checkpointed pass over Parquet files."""

    source: Sequence[str]
    columns: Sequence[str]
    steps: Sequence[Step]
    output: str
    checkpoint: str
    id_column: str
    row_ids: Callable[[pa.Table], npt.NDArray[np.int64]]
    rows_per_block: int
    name: str  # of what is counted, for the progress line
    rows: int
    partition_by: str | None = None
    may_go_on: Callable[[], None] = lambda: None  # asked when rows were written; a UserError ends the process
    counts: Callable[[pa.Table], Iterable[metrics.Sample]] | None = None  # what a batch of the last step comes to
    read: Callable[[str, Sequence[str]], Iterator[pa.Table]] = tables.pieces  # columns of one file, part by part
    is_small: bool = False  # the asking process may run it, where Ray would start another one on the same machine
    written_as: Mapping[str, Any] = field(default_factory=dict)  # how Parquet is laid out: pyarrow's write options
