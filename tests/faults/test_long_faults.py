"""Faults that take minutes or rights: `make chaos` runs them, `make test` does not.

Some need root, to mount a small disk or to give a node a network of its own; without, they are skipped and say so.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.material import Submit, needs_root, small_disk_at
from support.stores import SCRIPT, SMALL_BLOCKS, contents

from infra.base.files import ROOT
from infra.faults import encoding
from infra.local import cluster
from pipelines.latents import store

pytestmark = [pytest.mark.chaos, pytest.mark.long]


@needs_root
@pytest.mark.parametrize("seed", [0])
def test_thirty_seconds_without_the_network_lose_and_double_nothing(
    seed: int, encoded_store: Path, raw_pairs: Path, ray_environment: dict[str, str], tmp_path: Path
) -> None:
    drawn = encoding.strikes(random.Random(seed), ("network",), 406 // encoding.BLOCK)
    flags = ["--source", str(raw_pairs), "--encoders", "2", *SMALL_BLOCKS]
    manifest = encoding.run_round(ray_environment, flags, str(tmp_path / "store"), drawn, tmp_path / "store.log")
    assert (manifest.counts, manifest.content_hash) == contents(encoded_store)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Hold a disk of 400 kB."""
    with small_disk_at(tmp_path / "disk", "400k") as folder:
        yield folder


@needs_root
def test_a_disk_that_really_fills_is_one_sentence_and_with_room_the_same_command_finishes(
    encoded_store: Path, raw_pairs: Path, submit: Submit, small_disk: Path
) -> None:
    flags = ["--source", str(raw_pairs), *SMALL_BLOCKS, "--store", str(small_disk / "s")]
    done = submit(SCRIPT, *flags, check=False)
    assert done.returncode != 0
    assert f"error: {small_disk}/s/pairs: could not be written (No space left on device); make room" in done.stdout
    assert not (small_disk / "s" / store.MANIFEST).exists()
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    submit(SCRIPT, *flags)
    assert contents(small_disk / "s") == contents(encoded_store)


@pytest.mark.parametrize("own", ["disabled", "token"])
def test_an_open_port_without_a_token_is_refused(
    own: str, raw_pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_token = cluster.environment
    monkeypatch.setattr(cluster, "environment", lambda *given: with_token(*given) | {"RAY_AUTH_MODE": "disabled"})
    with cluster.running(tmp_path / "cluster.log") as surroundings:
        surroundings = surroundings | {"RAY_AUTH_MODE": own}
        command = [sys.executable, SCRIPT, "--source", str(raw_pairs), "--store", str(tmp_path / "s")]
        done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: this Ray cluster listens beyond loopback and asks for no token" in done.stderr
    assert not list((tmp_path / "s").rglob("*.parquet"))
