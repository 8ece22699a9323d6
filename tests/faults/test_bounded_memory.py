"""An input many times larger than the object store, and a full disk where Ray puts what does not fit into that."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.material import Submit, needs_root, rendered_pairs, small_disk_at, write_pairs
from support.stores import SCRIPT, contents

from infra.base.files import ROOT
from infra.local import cluster

pytestmark = [pytest.mark.chaos, pytest.mark.long]
STORE_BYTES = 80_000_000  # Ray starts with no less than 75 MiB
SMALL_BATCHES = ("--batch-size", "4")  # 4 pairs of 1 MB


def write_heavy_pairs(folder: Path, count: int) -> Path:
    """Write pairs of 1 MB, in files of one row group of 200: behind each small image lies noise."""
    noise = np.random.default_rng(0)
    rows = rendered_pairs(count)
    for row in rows:
        row |= {slot: row[slot] + noise.bytes(520_000) for slot in ("jpg_0", "jpg_1")}
    return write_pairs(folder, rows, rows_per_file=200)


def encode(surroundings: dict[str, str], source: Path, store: Path) -> subprocess.CompletedProcess[str]:
    """Run the encoder as a driver of a cluster."""
    command = [sys.executable, SCRIPT, "--source", str(source), *SMALL_BATCHES, "--store", str(store)]
    return subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)


def spilled(surroundings: dict[str, str]) -> int:
    """Return the MiB that a cluster has put from its object store onto disk since it began."""
    command = ["ray", "memory", "--stats-only"]
    message = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True).stdout
    assert "Plasma memory usage" in message
    found = re.search(r"^Spilled (\d+) MiB", message, re.MULTILINE)
    return int(found[1]) if found else 0


def test_five_times_the_object_store_is_encoded_within_it(
    submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_heavy_pairs(tmp_path / "raw", 400)
    assert sum(path.stat().st_size for path in source.iterdir()) > 5 * STORE_BYTES
    monkeypatch.setattr(cluster, "STORE_BYTES", STORE_BYTES)
    with cluster.running(tmp_path / "cluster.log") as surroundings:
        done = encode(surroundings, source, tmp_path / "small")
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        assert spilled(surroundings) == 0
    counts, content_hash = contents(tmp_path / "small")
    assert (counts.rows_in, counts.kept, counts.ties) == (400, 350, 50)
    ample = tmp_path / "ample"  # in 1 GiB, where the blocks are larger
    submit(SCRIPT, "--source", str(source), *SMALL_BATCHES, "--store", str(ample))
    assert (counts, content_hash) == contents(ample)


HOLD = (
    "import os, sys, ray; ray.init(); held = [ray.put(os.urandom(10**7)) for _ in range(7)]; print(); sys.stdin.read()"
)


@pytest.fixture
def spill_disk(tmp_path: Path) -> Iterator[Path]:
    """Hold a disk of 20 MB."""
    with small_disk_at(tmp_path / "spill", "20m") as folder:
        yield folder


@needs_root
def test_a_disk_that_is_full_where_ray_spills_is_one_sentence_and_with_room_the_same_command_finishes(
    spill_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another job holds 70 of the 80 MB, so that the encoder's blocks have to go to a disk without room for them."""
    source, store = write_heavy_pairs(tmp_path / "raw", 80), tmp_path / "store"
    plain = cluster.environment
    elsewhere = {"RAY_object_spilling_directory": str(spill_disk)}
    monkeypatch.setattr(cluster, "environment", lambda *given: plain(*given) | elsewhere)
    monkeypatch.setattr(cluster, "STORE_BYTES", STORE_BYTES)
    with cluster.running(tmp_path / "cluster.log") as surroundings:
        command = [sys.executable, "-c", HOLD]
        with subprocess.Popen(command, env=surroundings, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"\n"
            done = encode(surroundings, source, store)
            holder.communicate()
        assert done.returncode == 2
        message = f"error: {store}/pairs: Ray's disk for what does not fit into memory is full (--temp-dir or"
        assert message in done.stderr
        assert not (store / "manifest.json").exists()
        for folder in (store, tmp_path / "clean"):
            again = encode(surroundings, source, folder)
            assert again.returncode == 0, again.stdout[-4000:] + again.stderr[-4000:]
    assert contents(store) == contents(tmp_path / "clean")
