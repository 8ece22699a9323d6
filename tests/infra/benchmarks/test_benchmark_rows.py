"""The benchmarks of reading rows: pieces that need no time to be told right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from infra.base import files
from infra.benchmarks import first_step, slow_s3
from infra.benchmarks.random_store import write_store
from training.data.applied_labels import apply_labels
from training.data.opened import open_store


def test_the_exponent_is_the_slope_of_the_logarithms() -> None:
    assert first_step.exponent((10, 100, 1000), [3.0, 3.0, 3.0]) == pytest.approx(0.0)
    assert first_step.exponent((10, 100, 1000), [2.0, 20.0, 200.0]) == pytest.approx(1.0)


def test_a_rank_holds_what_is_said_of_a_pair(tmp_path: Path) -> None:
    write_store(tmp_path / "store", 3000, (1, 2, 2), {"embedding": (2,)}, rows_per_file=1000, prompts=200)
    held = first_step.held(tmp_path / "store", 3000)
    assert 24 < held["mapped"] < 24.5  # and a kilobyte of Arrow's own
    assert held["alone"] == 5


def test_a_folder_is_served_as_a_bucket_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_store(tmp_path / "bucket" / "store", 40, (1, 2, 2), {"embedding": (2,)})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with slow_s3.serving(tmp_path, delay=0.0) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        there = "s3://bucket/store"
        pairs = apply_labels(open_store(there, str(tmp_path / "cache")), there, "human").pairs
        before = server.totals()
        read = pairs.latents.begin(np.array([3, 39]))()
        requests, size = (now - then for now, then in zip(server.totals(), before, strict=True))
        assert files.list_files(there, "manifest.json") == [
            f"{there}/labels/human/manifest.json",
            f"{there}/manifest.json",
        ]
    here = open_store(str(tmp_path / "bucket" / "store")).latents.begin(np.array([3, 39]))()
    assert all(np.array_equal(values, here[name]) for name, values in read.items())
    assert 5 <= requests <= 6  # two columns of two pairs, and the file's size, perhaps asked for by two threads at once
    assert size > 0
