"""An input many times larger than the object store it is given, in row groups that are larger than it too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Submit, rendered_pairs, write_pairs
from test_encode_latents import SCRIPT
from test_store_faults import contents

from infra import cluster
from infra.files import ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.long]
STORE_BYTES = 80_000_000  # Ray starts with no less than 75 MiB
SMALL_BATCHES = ("--batch-size", "4")  # 4 pairs of 1 MB


@pytest.fixture(scope="module")
def heavy_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 400 pairs of 1 MB, in two files of one row group: behind each small image lies noise."""
    noise = np.random.default_rng(0)
    rows = rendered_pairs(400)
    for row in rows:
        row |= {slot: row[slot] + noise.bytes(520_000) for slot in ("jpg_0", "jpg_1")}
    return write_pairs(tmp_path_factory.mktemp("heavy"), rows, rows_per_file=200)


def spilled(surroundings: dict[str, str]) -> int:
    """Return the MiB that a cluster has put from its object store onto disk since it began."""
    command = ["ray", "memory", "--stats-only"]
    told = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True).stdout
    assert "Plasma memory usage" in told
    found = re.search(r"^Spilled (\d+) MiB", told, re.MULTILINE)
    return int(found[1]) if found else 0


def test_five_times_the_object_store_is_encoded_within_it(
    heavy_pairs: Path, submit: Submit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source_bytes = sum(path.stat().st_size for path in heavy_pairs.iterdir())
    assert source_bytes > 5 * STORE_BYTES
    flags = ["--source", str(heavy_pairs), *SMALL_BATCHES, "--store"]
    monkeypatch.setattr(cluster, "STORE_BYTES", STORE_BYTES)
    with cluster.running(tmp_path / "cluster.log") as surroundings:
        command = [sys.executable, SCRIPT, *flags, str(tmp_path / "small")]
        done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        assert spilled(surroundings) == 0
    counts, content_hash = contents(tmp_path / "small")
    assert (counts.rows_in, counts.kept, counts.ties) == (400, 350, 50)
    submit(SCRIPT, *flags, str(tmp_path / "ample"))  # 1 GiB, where the blocks are larger
    assert (counts, content_hash) == contents(tmp_path / "ample")
