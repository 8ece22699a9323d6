"""Shared material: raw pairs drawn without a model, and one Ray cluster for the whole session."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the Hub's client, which reads it once

import contextlib
import functools
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from infra import cluster, files
from infra.files import ROOT
from infra.world import label_pairs
from infra.world.shapes import COLOURS, Scene, all_scenes, render
from pipelines import engine
from pipelines.encode_config import EncodeConfig
from pipelines.jobs import Job
from pipelines.raw_pairs import SCHEMA
from training import assembly, loop
from training.backbone import open_backbone
from training.backbone_base import EVERY
from training.config import DataConfig, OptimizerConfig, TrainConfig
from training.objectives import ObjectiveConfig
from training.policy import PolicyConfig, make_policy, trained
from training.result import write_adapters

SHARED = ROOT.parent / "shared" / "data"
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
        rows.append(label_pairs.rated_pair(number, scene.caption, slots, label_0, "true renders"))
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


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """Hold an S3 server on loopback with one bucket, and yield the bucket's path."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patched.setenv(name, "testing")
        patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.Session().client("s3").create_bucket(Bucket="dpo-test")
        yield "s3://dpo-test"
    server.stop()


@pytest.fixture(scope="session")
def ray_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Hold one cluster for the session; yields the environment of its clients."""
    with cluster.running(tmp_path_factory.mktemp("ray") / "cluster.log") as surroundings:
        yield surroundings


Submit = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def submit(ray_environment: dict[str, str]) -> Submit:
    """Return a function that runs an entry point as `ray job submit` does and returns the finished process.

    What is named beside the flags goes into the job's environment, its workers' too.
    """

    def run(script: str, *flags: str, check: bool = True, **extra: str) -> subprocess.CompletedProcess[str]:
        given = ["--runtime-env-json", json.dumps({"env_vars": extra})] if extra else []
        command = ["ray", "job", "submit", *given, "--", "python", script, *flags]
        done = subprocess.run(
            command, cwd=ROOT, env=ray_environment, capture_output=True, text=True, timeout=600, check=False
        )
        if check and done.returncode:
            raise AssertionError(
                f"{' '.join(command)} exited {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            )
        return done

    return run


def wait_for(condition: Callable[[], bool], job: subprocess.Popen[Any]) -> None:
    """Poll until a condition holds while a job runs; the condition decides, not the clock."""
    deadline = time.monotonic() + 240
    while not condition():
        assert job.poll() is None, "the job ended before what the test waits for"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep torch on one thread: the suite shares two cores with a cluster."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def raw_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 400 raw pairs and six bad rows."""
    rows = rendered_pairs(400)
    return write_pairs(tmp_path_factory.mktemp("raw"), [*rows, *label_pairs.bad_rows(rows)])


def put_plain_engine(patched: pytest.MonkeyPatch) -> list[Job]:
    """Put a plain loop in the engine's place; returns the list to which it adds the jobs that it is given."""
    jobs: list[Job] = []

    def run(job: Job) -> None:
        jobs.append(job)
        steps = [(step.function(**step.arguments), step.batch_size) for step in job.steps]
        table = pa.concat_tables([pq.read_table(path, columns=list(job.columns)) for path in job.source])
        Path(job.output).mkdir(parents=True, exist_ok=True)
        done = sorted(Path(job.output).rglob("*.parquet"))
        ids = np.concatenate([pq.read_table(path)[job.id_column].to_numpy() for path in done]) if done else np.empty(0)
        table = table.filter(pa.array(~np.isin(job.row_ids(table), ids)))
        for start in range(0, table.num_rows, job.rows_per_block):
            part = table.slice(start, job.rows_per_block)
            for step, size in steps:
                batches = range(0, part.num_rows, size or part.num_rows)
                part = pa.concat_tables([step(part.slice(first, size)) for first in batches])
            pq.write_to_dataset(
                part,
                job.output,
                partition_cols=[job.partition_by] if job.partition_by else None,
                basename_template=f"part-{len(done)}-{start}-{{i}}.parquet",
            )

    patched.setattr(engine, "connect", lambda: None)
    patched.setattr(engine, "device_count", lambda: 0)
    patched.setattr(engine, "call", lambda function, *arguments, **_: function(*arguments))
    patched.setattr(engine, "run", run)
    return jobs


@pytest.fixture
def plain_engine(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Put a plain loop in the engine's place; yields the jobs it was given."""
    return put_plain_engine(monkeypatch)


def encode_plainly(raw: Path, destination: Path) -> Path:
    """Encode raw pairs without Ray, whose stores tests/test_encode_latents.py and others hold against these."""
    from pipelines import encode_latents  # which loads diffusers: most tests need none of it

    with pytest.MonkeyPatch.context() as patched:
        put_plain_engine(patched)
        encode_latents.main(EncodeConfig(source=str(raw), store=str(destination)))
    return destination


@pytest.fixture(scope="session")
def encoded_store(raw_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the latent store of raw_pairs."""
    return encode_plainly(raw_pairs, tmp_path_factory.mktemp("encoded") / "store")


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of a tiny random pipeline of one of tiny_pipelines.KINDS."""
    from tiny_pipelines import write_pipeline  # which loads diffusers: most tests need none of it

    return functools.cache(lambda kind: write_pipeline(kind, tmp_path_factory.mktemp(kind) / "model"))


@pytest.fixture
def copied_store(encoded_store: Path, tmp_path: Path) -> Path:
    """Return a copy of encoded_store that a test may change."""
    path = tmp_path / "store"
    shutil.copytree(encoded_store, path, ignore=shutil.ignore_patterns(".lock"))
    return path


@pytest.fixture(scope="session")
def held_out_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the latent store of 16 pairs, two of them ties, of other captions."""
    folder = tmp_path_factory.mktemp("held_out")
    raw = write_pairs(folder / "raw", rendered_pairs(16, seed=1, scenes=HELD_OUT))
    return encode_plainly(raw, folder / "store")


@pytest.fixture(scope="session")
def training_flags(encoded_store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the flags of a run of 24 steps of 16 pairs, a little over one epoch."""
    cache = tmp_path_factory.mktemp("cache")
    portions = ["--steps", "24", "--checkpoint-every", "6", "--global-batch", "16", "--micro-batch", "4"]
    return ["--store", str(encoded_store), "--cache", str(cache), *portions, "--beta", "500"]


@pytest.fixture(scope="session")
def two_workers(training_flags: list[str], submit: Submit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of such a run on two workers that nothing disturbed."""
    output = tmp_path_factory.mktemp("two")
    submit("training/train_dpo.py", *training_flags, "--workers", "2", "--output", str(output))
    return output


@pytest.fixture
def config(encoded_store: Path, held_out_store: Path, tmp_path: Path) -> TrainConfig:
    """Return settings of a run of six steps of eight pairs."""
    data = DataConfig(
        store=str(encoded_store),
        held_out_store=str(held_out_store),
        cache=str(tmp_path / "cache"),
        global_batch=8,
        micro_batch=4,
    )
    return TrainConfig(
        output=str(tmp_path / "run"),
        steps=6,
        checkpoint_every=2,
        data=data,
        objective=ObjectiveConfig(beta=500.0),
        optimizer=OptimizerConfig(warmup_steps=3),
        validation=replace(TrainConfig().validation, held_out_pairs=8, held_out_draws=1),
    )


def lora_result(folder: Path, alpha: int = 8) -> tuple[Path, Any]:
    """Write adapters of the embedded world's model, moved off zero, as a run leaves them; and return their policy."""
    backbone = open_backbone(MODEL, EVERY)
    policy = make_policy(PolicyConfig(lora_rank=4, lora_alpha=alpha), backbone, seed=0)
    generator = torch.Generator().manual_seed(0)
    for name, weight in trained(policy).items():
        if "lora_B" in name:
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    write_adapters(folder, backbone, policy)
    facts = {"config": {"model": str(MODEL), "objective": {"beta": 300.0}}}
    (folder / "facts.json").write_text(json.dumps(facts))
    return folder, policy


def notes(output: str | Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """Read what a run noted, on a disk or on S3."""
    return [json.loads(line) for line in files.read_bytes(files.join(str(output), name)).splitlines()]


class Killed(Exception):
    """Stands for a kill in the middle of a run."""


def train_until_killed(config: TrainConfig, step: int) -> None:
    """Train in this process and die when a step was taken, before what follows it."""

    def die(metrics: dict[str, Any]) -> None:
        if metrics["step"] == step:
            raise Killed

    with pytest.raises(Killed):
        loop.train(config, assembly.Rank(on_step=die))
