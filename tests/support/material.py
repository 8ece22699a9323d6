"""What many tests share: raw pairs drawn without a model, stores encoded without Ray, runs that are killed."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from infra.base import (
    engines,
    files,
)
from infra.base.files import ROOT
from infra.world import rater
from infra.world.shapes import COLOURS, Scene, all_scenes, render
from pipelines.engine import in_process
from pipelines.engine.jobs import Job
from pipelines.latents.encode_config import EncodeConfig
from pipelines.raw.raw_pairs import SCHEMA

PARTI = ROOT / "tests" / "data" / "PartiPrompts.tsv"


MODEL = ROOT / "infra" / "world" / "model"


TRAINED, HELD_OUT = all_scenes()[::2], all_scenes()[1::2]  # no caption stands on both sides


def rendered_pairs(count: int, seed: int = 0, scenes: Sequence[Scene] = TRAINED) -> list[dict[str, Any]]:
    """Make raw pairs of true renders: one slot shows the caption, the other a wrong background; one in eight ties."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        scene = scenes[int(rng.integers(len(scenes)))]
        wrong = replace(
            scene, background=str(rng.choice([c for c in COLOURS if c not in (scene.colour, scene.background)]))
        )
        jpegs = []
        for shown in (scene, wrong):
            buffer = io.BytesIO()
            Image.fromarray(render(shown, rng)).save(buffer, format="JPEG", quality=95)
            jpegs.append(buffer.getvalue())
        label_0 = 0.5 if number % 8 == 7 else float(rng.random() < 0.5)
        if label_0 == 0.0:
            jpegs.reverse()
        slots = [(f"{number}-0", jpegs[0]), (f"{number}-1", jpegs[1])]
        rows.append(rater.rated_pair(number, scene.caption, slots, label_0, "true renders"))
    return rows


def write_pairs(folder: Path, rows: list[dict[str, Any]], rows_per_file: int = 64) -> Path:
    """Write raw pairs as Parquet files."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(rows), rows_per_file):
        table = pa.Table.from_pylist(rows[start : start + rows_per_file], schema=SCHEMA)
        pq.write_table(table, folder / f"pairs-{start:05d}.parquet")
    return folder


@contextlib.contextmanager
def small_disk_at(folder: Path, size: str) -> Iterator[Path]:
    """Hold a disk of so much, as mount writes it, at a folder; only root may."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # a failed job's workers may still hold it


Submit = Callable[..., "subprocess.CompletedProcess[str]"]


class Process(Protocol):
    """A process that a test has begun."""

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""


def wait_for(condition: Callable[[], bool], job: Process, every: float = 0.01) -> None:
    """Poll until a condition holds while a job runs; the condition decides, not the clock.

    Args:
        every: seconds between two looks; more where a look takes much time, as one through all processes does.
    """
    deadline = time.monotonic() + 240
    while not condition():
        assert job.poll() is None, "the job ended before what the test waits for"
        assert time.monotonic() < deadline
        time.sleep(every)


def note_jobs(patched: pytest.MonkeyPatch) -> list[Job]:
    """Return the list to which the jobs that this process runs are added."""
    jobs: list[Job] = []
    run = in_process.run

    def noted(job: Job) -> None:
        jobs.append(job)
        run(job)

    patched.setattr(in_process, "run", noted)
    return jobs


def encode_plainly(raw: Path, destination: Path) -> Path:
    """Encode raw pairs in this process; test_encode_latents.py holds the stores of Ray against these."""
    from pipelines.latents import (
        encode_latents,  # which loads diffusers: most tests need none of it
    )

    with engines.asking("local"):
        encode_latents.main(EncodeConfig(source=str(raw), store=str(destination)))
    return destination


def notes(output: str | Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Read what a run noted, on a disk or on S3."""
    return [json.loads(line) for line in files.read_bytes(files.join(str(output), name)).splitlines()]


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
