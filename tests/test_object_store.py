"""Memory is bounded at any input size: an input many times larger than the object store it is encoded through."""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import MODEL
from PIL import Image

from infra import cluster
from infra.files import ROOT
from infra.world import label_pairs
from pipelines import store
from pipelines.raw_pairs import SCHEMA

STORE_BYTES = 80 * 1024**2  # little over the least that Ray takes
PAIRS, SIDE = 640, 640


def large_pairs(folder: Path) -> int:
    """Write raw pairs whose images hardly compress, each row under an id of its own; returns their bytes."""
    generator = np.random.default_rng(0)
    buffers = [io.BytesIO() for _ in range(8)]
    for buffer in buffers:
        noise = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(buffer, format="JPEG", quality=95)
    jpegs = [buffer.getvalue() for buffer in buffers]
    folder.mkdir()
    for start in range(0, PAIRS, 40):
        rows = []
        for number in range(start, start + 40):
            slots = [(f"{number}-{slot}", jpegs[(number + slot) % len(jpegs)]) for slot in (0, 1)]
            rows.append(label_pairs.rated_pair(number, "noise", slots, 1.0, "noise"))
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        pq.write_table(table, folder / f"{start:05d}.parquet", row_group_size=8)
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.chaos
def test_an_input_many_times_the_object_store_is_encoded_through_it(tmp_path: Path) -> None:
    """Decoding has a core share other than the VAE's, so Ray hands every block on through the object store."""
    size = large_pairs(tmp_path / "raw")
    assert size > 5 * STORE_BYTES
    script = ["python", "pipelines/encode_latents.py", "--source", str(tmp_path / "raw"), "--model", str(MODEL)]
    flags = ["--store", str(tmp_path / "store"), "--rows-per-file", "8", "--batch-size", "8"]
    flags += ["--cpus-per-decode-task", "0.5", "--decode-tasks", "2"]
    with cluster.running(tmp_path / "cluster.log", STORE_BYTES) as surroundings:
        submit = ["ray", "job", "submit", "--", *script, *flags]
        done = subprocess.run(submit, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)
        told = subprocess.run(
            ["ray", "memory", "--stats-only"], env=surroundings, capture_output=True, text=True, check=False
        ).stdout
    assert done.returncode == 0, done.stdout[-3000:]
    assert store.read_manifest(str(tmp_path / "store")).counts.kept == PAIRS
    spilled = re.search(r"Spilled (\d+) MiB", told)
    assert (int(spilled[1]) if spilled else 0) * 1024**2 < size / 2, told
