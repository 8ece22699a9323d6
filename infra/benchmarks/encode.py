"""What encoding through Ray costs over a bare loop: `python infra/benchmarks/encode.py`.

Ours: the encoder's job on a local cluster, two copies of the VAE. Bare: two processes, one thread each, the same steps
and batches over the same rows, no Ray. Both are measured once each copy has encoded a file's worth of pairs ("once it
runs"), ours by the time at which each batch is done: files come later, in bursts.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.base import cli, files, models, tables
from infra.base.places import PathText
from infra.benchmarks.measure import alternate, in_processes
from infra.local import cluster
from pipelines.engine.jobs import Job, Step

COPIES = 2
BATCH = 32
BLOCK = 256  # pairs per file: what each copy does before it is measured


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    source: str = "infra/world/pairs"
    """Raw pairs; repeated until there are enough."""
    model: str = "infra/world/model"
    pairs: int = 4096
    """Pairs per round."""
    rounds: int = 3
    json: PathText | None = None
    """File for the figures."""


def repeated_pairs(source: str, count: int) -> pa.Table:
    """Repeat raw pairs, each repetition under ids of its own."""
    table = tables.read_folder(files.resolve(source))
    copies = -(-count // table.num_rows)
    whole = pa.concat_tables([table] * copies).slice(0, count)
    return whole.set_column(
        whole.schema.get_field_index("ranking_id"), "ranking_id", pa.array(range(count), pa.int64())
    )


def steps(model: str) -> tuple[dict[str, object], dict[str, object]]:
    """Return the arguments of the encoder's two steps."""
    check: dict[str, object] = {"resolution": 64, "strict_labels": False}
    encode: dict[str, object] = {
        "model": models.Model(model),
        "resolution": 64,
        "posterior": "sample",
        "flip": False,
        "seed": 0,
        "batch_size": BATCH,
        "dtype": "float32",
    }
    return check, encode


def _bare_worker(path: str, model: str, part: int, signals: Any) -> None:
    import torch

    torch.set_num_threads(1)
    from pipelines.latents.decoding import CheckAndDecode
    from pipelines.latents.encoders import LatentEncoder

    check, encode = steps(model)
    decode = CheckAndDecode(**check)  # type: ignore[arg-type]
    vae = LatentEncoder(**encode)  # type: ignore[arg-type]
    table = tables.read([path])
    mine = range(part, -(-table.num_rows // BATCH), COPIES)
    before = BLOCK // BATCH
    for index in mine[:before]:
        vae(decode(table.slice(index * BATCH, BATCH)))
    ready, go, done = signals
    ready.release()
    go.wait()
    for index in mine[before:]:
        vae(decode(table.slice(index * BATCH, BATCH)))
    done.release()


def bare_loop(path: str, model: str, pairs: int) -> float:
    """Encode with plain processes and return pairs/s, measured once each has encoded BLOCK pairs."""
    seconds = in_processes(_bare_worker, [(path, model, part) for part in range(COPIES)])
    return (pairs - COPIES * BLOCK) / seconds


def through_ray(path: str, model: str, folder: str, pairs: int) -> float:
    """Encode with the engine and return pairs/s, from when each copy has encoded BLOCK pairs to the last batch."""
    from pipelines.engine import on_ray
    from pipelines.latents.decoding import CheckAndDecode
    from pipelines.latents.encoders import LatentEncoder
    from pipelines.raw.pairs import pair_ids

    output = tempfile.mkdtemp(dir=folder)
    notes = Path(output) / "notes"
    notes.mkdir()

    class TimedLatentEncoder(LatentEncoder):
        """The encoder's step, which also notes how many pairs it has done by when."""

        def __call__(self, decoded: pa.Table) -> pa.Table:
            encoded = super().__call__(decoded)
            with (notes / str(os.getpid())).open("a") as file:
                file.write(f"{time.time()} {encoded.num_rows}\n")
            return encoded

    check, encode = steps(model)
    on_ray.connect()
    on_ray.run(
        Job(
            source=[path],
            columns=tables.column_names(path),
            steps=[
                Step(function=CheckAndDecode, arguments=check, batch_size=BATCH),
                Step(function=TimedLatentEncoder, arguments=encode, batch_size=BATCH, actors=COPIES),
            ],
            output=f"{output}/pairs",
            checkpoint=f"{output}/done",
            id_column="pair_id",
            row_ids=pair_ids,
            rows_per_block=BLOCK,
            name="pairs",
            rows=pairs,
            partition_by="status",
        )
    )
    copies = [np.loadtxt(note, ndmin=2) for note in notes.iterdir()]
    began = max(copy[np.searchsorted(copy[:, 1].cumsum(), BLOCK), 0] for copy in copies)
    every = np.concatenate(copies)
    return float(every[every[:, 0] > began, 1].sum() / (every[:, 0].max() - began))


def main(config: BenchmarkConfig) -> None:
    """Measure pairs/s of the encoder's Ray job against a bare loop of the same steps."""
    with tempfile.TemporaryDirectory() as folder, cluster.running(Path(folder) / "cluster.log") as surroundings:
        os.environ.update(surroundings)
        path = f"{folder}/raw.parquet"
        pq.write_table(repeated_pairs(config.source, config.pairs), path, row_group_size=256)
        alternate(
            lambda: through_ray(path, config.model, folder, config.pairs),
            lambda: bare_loop(path, config.model, config.pairs),
            config.rounds,
            "pairs/s",
            config.json,
            pairs=config.pairs,
        )


if __name__ == "__main__":
    cli.run(main, BenchmarkConfig)
