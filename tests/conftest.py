"""Shared material: raw pairs drawn without a model, folders made once a run, and one Ray cluster for all its tests."""

from __future__ import annotations

import os

from support import group_material
from support.bitsandbytes_apart import APART
from support.material import HELD_OUT, Submit, encode_plainly, note_jobs, rendered_pairs, write_pairs
from support.shared import shared_folder
from support.short_runs import look_twice, short_run

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the Hub's client, which reads it once
os.environ.pop("RAY_ADDRESS", None)  # no test joins a cluster but the tests' own

import contextlib
import functools
import json
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.base import garbage, own_cluster, termination
from infra.base.errors import UserError
from infra.base.files import ROOT
from infra.local import cluster
from infra.world import rater
from pipelines.engine import choose, in_process
from pipelines.engine.jobs import Job
from training.settings.config import TrainConfig


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks and xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need the Ray cluster, put them first, and keep them in one process; others go by file.

    Files with slow tests come next, so that no process is left with a long one at the end.
    """

    def on_cluster(item: pytest.Item) -> bool:
        return "ray_environment" in getattr(item, "fixturenames", ())

    slow = {item.nodeid.split("::")[0] for item in items if item.get_closest_marker("slow")}
    for item in items:
        if on_cluster(item):
            item.add_marker(pytest.mark.cluster)
        group = "cluster" if on_cluster(item) else item.nodeid.split("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: (not on_cluster(item), item.nodeid.split("::")[0] not in slow))


def pytest_collection() -> None:
    """Search for cyclic garbage seldom while test files are imported, and the libraries by them."""
    garbage.search_seldom()


def pytest_collection_finish() -> None:
    """Search as usual from here on, and no more among what is there by now."""
    garbage.search_as_usual()


@pytest.fixture(autouse=True)
def no_other_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test start or join a Ray cluster inside the test process: that takes seconds, and stays until the end."""
    from pipelines.engine import ray_cluster  # which loads Ray: no process needs it that only hands out tests

    monkeypatch.setattr(own_cluster, "is_running", lambda: False)
    monkeypatch.setattr(choose._Current, "engine", in_process)
    refuse = lambda *_, **__: pytest.fail("a test process must not join or start Ray")  # noqa: E731
    monkeypatch.setattr(ray_cluster.ray, "init", refuse)


@pytest.fixture(autouse=True)
def nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test find an earlier test's request to end."""
    monkeypatch.setattr(termination, "_asked", threading.Event())


@pytest.fixture(autouse=True)
def no_warnings_of_peft() -> None:
    """Keep peft's warnings here: the process that hands out tests would import peft for their class, and fail."""
    warnings.filterwarnings("ignore", module=r"peft\.")  # pytest has its own filters for each test


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


def started_cluster(held: contextlib.ExitStack, temporary: pytest.TempPathFactory, attempts: int) -> dict[str, str]:
    """Start a cluster that ends with `held`, and return the environment of its clients."""
    try:
        return held.enter_context(cluster.running(temporary.mktemp("ray") / "cluster.log"))
    except UserError:
        if attempts == 1:
            raise
    return started_cluster(held, temporary, attempts - 1)


@pytest.fixture(scope="session")
def ray_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Hold one cluster for the session; yields the environment of its clients.

    A loaded machine may need a second attempt: Ray gives a node 30 s to start, and cannot be told otherwise.
    """
    with contextlib.ExitStack() as held:
        yield started_cluster(held, tmp_path_factory, attempts=3)


def checked(done: subprocess.CompletedProcess[str], check: bool) -> subprocess.CompletedProcess[str]:
    """Return a finished process, which must have ended well if asked to check that."""
    if check and done.returncode:
        raise AssertionError(f"{done.args} exited {done.returncode}\n{done.stdout[-8000:]}")
    return done


@pytest.fixture(scope="session")
def submit(ray_environment: dict[str, str]) -> Submit:
    """Return a function that runs an entry point as `ray job submit` does and returns the finished process.

    What is named beside the flags goes into the job's environment, its workers' too.
    """

    def run(script: str, *flags: str, check: bool = True, **extra: str) -> subprocess.CompletedProcess[str]:
        given = ["--runtime-env-json", json.dumps({"env_vars": extra})] if extra else []
        command = ["ray", "job", "submit", *given, "--", "python", script, *flags]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=ray_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        return checked(done, check)

    return run


@pytest.fixture(scope="session")
def drive(ray_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Submit:
    """Return a function that runs an entry point outside a job, where it joins the cluster as a job does.

    It takes some twelve seconds of CPU less than `submit`, for tests that are not about submitting or starting.
    """
    from support.drivers import Drivers  # which loads torch

    drivers = Drivers(ray_environment, tmp_path_factory.mktemp("drivers") / "log")

    def run(script: str, *flags: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return checked(drivers.run(script, *flags), check)

    return run


@pytest.fixture
def beside_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test import bitsandbytes from where it lies apart."""
    if APART.is_dir():
        monkeypatch.setattr(sys, "path", [*sys.path, str(APART)])


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep torch on one thread: the suite shares two cores with a cluster."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def raw_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 400 raw pairs and six bad rows."""

    def make(folder: Path) -> None:
        rows = rendered_pairs(400)
        write_pairs(folder, [*rows, *rater.bad_rows(rows)])

    return shared_folder(tmp_path_factory, "raw_pairs", make)


@pytest.fixture
def noted_jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Yield the jobs that this process runs."""
    return note_jobs(monkeypatch)


@pytest.fixture(scope="session")
def encoded_store(raw_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the latent store of raw_pairs."""
    return shared_folder(tmp_path_factory, "encoded_store", lambda folder: encode_plainly(raw_pairs, folder))


@pytest.fixture(scope="session")
def group_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encode three groups of four images, 18 pairs."""

    def make(folder: Path) -> None:
        raw = group_material.write_rows(
            folder.with_name("raw_groups"), group_material.compact(group_material.grouped_rows(3, 4))
        )
        encode_plainly(raw, folder)

    return shared_folder(tmp_path_factory, "group_store", make)


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of a tiny random pipeline of one of tiny_pipelines.KINDS."""
    from support.tiny_pipelines import write_pipeline  # which loads diffusers: most tests need none of it

    def make(kind: str) -> Path:
        return shared_folder(tmp_path_factory, f"tiny-{kind}", lambda folder: write_pipeline(kind, folder))

    return functools.cache(make)


@pytest.fixture(scope="session")
def bucketed(tiny_pipeline: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the store of 24 pairs of four shapes, in buckets, of a tiny SD2's kind."""
    from support.bucketed import encode_bucketed

    def make(folder: Path) -> None:
        encode_bucketed(tiny_pipeline("sd-v"), folder)

    return shared_folder(tmp_path_factory, "bucketed", make) / "store"


@pytest.fixture
def copied_store(encoded_store: Path, tmp_path: Path) -> Path:
    """Return a copy of encoded_store that a test may change."""
    path = tmp_path / "store"
    shutil.copytree(encoded_store, path, ignore=shutil.ignore_patterns(".lock"))
    return path


@pytest.fixture(scope="session")
def held_out_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the latent store of 16 pairs, two of them ties, of other captions."""

    def make(folder: Path) -> None:
        raw = write_pairs(folder / "raw", rendered_pairs(16, seed=1, scenes=HELD_OUT))
        encode_plainly(raw, folder / "store")

    return shared_folder(tmp_path_factory, "held_out", make) / "store"


@pytest.fixture(scope="session")
def training_flags(small_world: str, encoded_store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the flags of a run of 24 steps of 16 pairs, a little over one epoch."""
    cache = tmp_path_factory.mktemp("cache")
    portions = ["--steps", "24", "--checkpoint-every", "6", "--global-batch", "16", "--micro-batch", "4"]
    return ["--model", small_world, "--store", str(encoded_store), "--cache", str(cache), *portions, "--beta", "500"]


@pytest.fixture
def keys() -> Iterator[None]:
    """Take Ctrl-C as Python does by default: tests that a shell runs in the background begin with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def one_process(training_flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of such a run of one worker without Ray."""
    from support.undisturbed import train_alone  # which loads torch: most tests need none of it

    return shared_folder(tmp_path_factory, "one_process", lambda folder: train_alone(training_flags, folder))


@pytest.fixture(scope="session")
def two_workers(training_flags: list[str], submit: Submit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of such a run on two workers of the cluster that nothing disturbed."""
    output = tmp_path_factory.mktemp("two")
    submit("training/train_dpo.py", *training_flags, "--workers", "2", "--output", str(output))
    return output


@pytest.fixture(scope="session")
def one_worker(training_flags: list[str], drive: Submit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of such a run of one worker on the cluster."""
    output = tmp_path_factory.mktemp("one")
    drive("training/train_dpo.py", *training_flags, "--workers", "1", "--output", str(output))
    return output


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of the embedded world's model with a small network."""
    from support.small_world import make_small_world  # which loads diffusers

    return str(shared_folder(tmp_path_factory, "small_world", make_small_world))


@pytest.fixture
def config(
    small_world: str, encoded_store: Path, held_out_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> TrainConfig:
    """Return settings of a short run of a small network: the embedded world's own took four fifths of the time."""
    look_twice(monkeypatch)
    return short_run(small_world, encoded_store, held_out_store, tmp_path)


@pytest.fixture(scope="session")
def undisturbed(
    small_world: str, encoded_store: Path, held_out_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> TrainConfig:
    """Return the settings of such a run in this process, which is finished."""

    def settings(folder: Path) -> TrainConfig:
        return short_run(small_world, encoded_store, held_out_store, folder)

    def make(folder: Path) -> None:
        from training.run import assembly, loop

        with pytest.MonkeyPatch.context() as patched:
            look_twice(patched)
            loop.train(settings(folder), assembly.Rank())

    return settings(shared_folder(tmp_path_factory, "undisturbed", make))
