"""What encoding through Ray costs over a bare loop: `python infra/benchmarks/encode.py`.

Ours: the encoder's job on a local cluster, two copies of the VAE, measured from its first written file to its last
("once it runs"). Bare: two processes, one thread each, the same steps and batches over the same rows, no Ray.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from infra import cli, cluster, files
from infra.benchmarks.measure import alternate

COPIES = 2
BATCH = 32


@dataclass(frozen=True)
class BenchmarkConfig:
    """Flags of the benchmark."""

    source: str = "infra/world/pairs"
    """Raw pairs; repeated until there are enough."""
    model: str = "infra/world/model"
    pairs: int = 4096
    """Pairs per round."""
    rounds: int = 3
    json: str | None = None
    """File for the figures."""


def repeated_pairs(source: str, count: int) -> pa.Table:
    """Repeat raw pairs, each repetition under ids of its own."""
    table = pa.concat_tables([pq.read_table(path) for path in files.list_files(files.resolve(source), ".parquet")])
    copies = -(-count // table.num_rows)
    whole = pa.concat_tables([table] * copies).slice(0, count)
    return whole.set_column(
        whole.schema.get_field_index("ranking_id"), "ranking_id", pa.array(range(count), pa.int64())
    )


def steps(model: str) -> tuple[dict[str, object], dict[str, object]]:
    """Return the arguments of the encoder's two steps."""
    check: dict[str, object] = {"resolution": 64, "strict_labels": False}
    encode: dict[str, object] = {
        "model": Path(files.resolve(model)),
        "resolution": 64,
        "posterior": "sample",
        "flip": False,
        "seed": 0,
        "batch_size": BATCH,
        "dtype": "float32",
    }
    return check, encode


def _bare_worker(path: str, model: str, part: int, ready: object, go: object, done: object) -> None:
    import torch

    torch.set_num_threads(1)
    from pipelines.encoders import CheckAndDecode, LatentEncoder

    check, encode = steps(model)
    decode, vae = CheckAndDecode(**check), LatentEncoder(**encode)  # type: ignore[arg-type]
    table = pq.read_table(path)
    ready.release()  # type: ignore[attr-defined]
    go.wait()  # type: ignore[attr-defined]
    for index in range(part, -(-table.num_rows // BATCH), COPIES):
        vae(decode(table.slice(index * BATCH, BATCH)))
    done.release()  # type: ignore[attr-defined]


def bare_loop(path: str, model: str, pairs: int) -> float:
    """Encode with plain processes; returns pairs/s from the moment all are ready."""
    context = multiprocessing.get_context("spawn")
    ready, go, done = context.Semaphore(0), context.Event(), context.Semaphore(0)
    workers = [
        context.Process(target=_bare_worker, args=(path, model, part, ready, go, done)) for part in range(COPIES)
    ]
    for worker in workers:
        worker.start()
    for _ in workers:
        ready.acquire()
    started = time.perf_counter()
    go.set()
    for _ in workers:
        done.acquire()
    seconds = time.perf_counter() - started
    for worker in workers:
        worker.join()
    return pairs / seconds


def through_ray(path: str, model: str, folder: str, pairs: int) -> float:
    """Encode with the engine; returns pairs/s between the first and the last written file."""
    from pipelines import engine
    from pipelines.encoders import CheckAndDecode, LatentEncoder
    from pipelines.pairs import pair_ids

    check, encode = steps(model)
    engine.connect()
    output = tempfile.mkdtemp(dir=folder)
    engine.run(
        engine.Job(
            source=[path],
            columns=pq.read_schema(path).names,
            steps=[
                engine.Step(CheckAndDecode, check, BATCH),
                engine.Step(LatentEncoder, encode, BATCH, COPIES, cpus=0.25),
            ],
            output=f"{output}/pairs",
            checkpoint=f"{output}/done",
            id_column="pair_id",
            row_ids=pair_ids,
            rows_per_block=256,
            name="pairs",
            rows=pairs,
            partition_by="status",
        )
    )
    written = sorted((os.stat(p).st_mtime, pq.read_metadata(p).num_rows) for p in files.list_files(f"{output}/done"))
    first, last = written[0][0], written[-1][0]
    return sum(rows for at, rows in written if at > first) / (last - first)


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
