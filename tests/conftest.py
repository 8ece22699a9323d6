"""Shared material: raw pairs drawn without a model, and one Ray cluster for the whole session."""

from __future__ import annotations

import os

from support.material import HELD_OUT, Submit, encode_plainly, put_plain_engine, rendered_pairs, write_pairs

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the Hub's client, which reads it once

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from infra.base.files import ROOT
from infra.local import cluster
from infra.world import rater
from pipelines.engine.jobs import Job
from training.method.objectives import ObjectiveConfig
from training.settings.config import DataConfig, OptimizerConfig, TrainConfig


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
    return write_pairs(tmp_path_factory.mktemp("raw"), [*rows, *rater.bad_rows(rows)])


@pytest.fixture
def plain_engine(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Put a plain loop in the engine's place; yields the jobs it was given."""
    return put_plain_engine(monkeypatch)


@pytest.fixture(scope="session")
def encoded_store(raw_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the latent store of raw_pairs."""
    return encode_plainly(raw_pairs, tmp_path_factory.mktemp("encoded") / "store")


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of a tiny random pipeline of one of tiny_pipelines.KINDS."""
    from support.tiny_pipelines import write_pipeline  # which loads diffusers: most tests need none of it

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
